//! On which line of a YAML text a field stands: for complaints about documents that were read long ago.

use super::unmarked;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The line, counted from 1, of `path` (`spec.images[0].name`) in the document with this index, counted from 0; of the
/// nearest field around it, when it is not there itself.
pub fn line_of(text: &str, index: usize, path: &str) -> Option<usize> {
    let mut steps = steps(path);
    loop {
        let part = serde_yaml::Deserializer::from_str(unmarked(text)).nth(index)?;
        // The way to ask this parser where it is: an error raised there carries the place.
        if let Err(error) = (Find { steps: &steps }).deserialize(part)
            && error.to_string().contains(FOUND)
        {
            return error.location().map(|location| location.line());
        }
        steps.pop()?;
    }
}

const FOUND: &str = "found: that was to be shown";

fn steps(path: &str) -> Vec<String> {
    path.split(['.', '[', ']']).filter(|step| !step.is_empty()).map(str::to_owned).collect()
}

struct Find<'s> {
    steps: &'s [String],
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.steps {
            [] => deserializer.deserialize_any(Here),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a mapping or a list")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(found) = map.next_key_seed(Key { steps: self.steps })? {
            if found {
                map.next_value_seed(Find { steps: &self.steps[1..] })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let wanted: Option<usize> = self.steps[0].parse().ok();
        for index in 0.. {
            let more = if wanted == Some(index) {
                seq.next_element_seed(Find { steps: &self.steps[1..] })?
            } else {
                seq.next_element::<IgnoredAny>()?.map(drop)
            };
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// A mapping's key: is it the next step? The last step is found at the key, which stands on the line that people look for.
struct Key<'s> {
    steps: &'s [String],
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match self.steps {
            [last] if last == key => Err(E::custom(FOUND)),
            [next, ..] => Ok(next == key),
            [] => Ok(false),
        }
    }
}

/// An item of a list that is itself what is looked for.
struct Here;

impl Visitor<'_> for Here {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(FOUND)
    }
}
