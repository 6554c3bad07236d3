//! Reads any value, and knows at each moment where it is.

use super::{Document, Error, MOST_VALUES};
use serde::de::Error as ReadError;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// How many duplicate keys are told. Source: sigs.k8s.io/json, which keeps 100 strict errors.
const MOST_DUPLICATES: usize = 100;
/// YAML's merge key.
const MERGE: &str = "<<";

enum Step {
    Key(String),
    Index(usize),
}

/// Where the reader is, and what it saw on its way.
pub(super) struct State {
    path: Vec<Step>,
    duplicates: Vec<String>,
    values: usize,
    /// Bytes of text that may still be read.
    left: usize,
    merges: bool,
}

impl State {
    pub(super) fn new(left: usize) -> Self {
        Self { path: Vec::new(), duplicates: Vec::new(), values: 0, left, merges: false }
    }

    pub(super) fn yaml(left: usize) -> Self {
        Self { merges: true, ..Self::new(left) }
    }

    /// The document, or what is wrong and where.
    pub(super) fn finish<E: std::fmt::Display>(self, value: Result<Value, E>) -> Result<Document, Error> {
        match value {
            Ok(value) => Ok(Document { value, duplicates: self.duplicates }),
            Err(_) if self.values > MOST_VALUES => Err(Error::TooManyValues),
            Err(error) => {
                let (error, path) = (error.to_string(), self.path());
                // serde_yaml names the path itself where it can.
                Err(Error::Malformed(if path.is_empty() || error.starts_with(&path) { error } else { format!("{path}: {error}") }))
            }
        }
    }

    /// `spec.images[0].name`.
    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.push_str(&format!(".{key}")),
            }
        }
        path
    }

    fn duplicate(&mut self) {
        if self.duplicates.len() < MOST_DUPLICATES {
            let path = self.path();
            if !self.duplicates.contains(&path) {
                self.duplicates.push(path);
            }
        }
    }

    fn spend<E: ReadError>(&mut self, bytes: usize) -> Result<(), E> {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return Err(E::custom("the document unfolds to more than 3 MiB; repeat less by aliases")),
        }
        Ok(())
    }
}

pub(super) struct Reader<'s>(pub(super) &'s mut State);

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // A value takes many times its text's memory: they are counted before they are kept.
        self.0.values += 1;
        if self.0.values > MOST_VALUES {
            return Err(D::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value that JSON has")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i128<E: ReadError>(self, v: i128) -> Result<Value, E> {
        Err(E::custom(format!("{v} is too large a number; if it is a text, put it in quotes")))
    }
    fn visit_u128<E: ReadError>(self, v: u128) -> Result<Value, E> {
        Err(E::custom(format!("{v} is too large a number; if it is a text, put it in quotes")))
    }
    fn visit_f64<E: ReadError>(self, v: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom(format!("{v} is no number that JSON has")))
    }
    fn visit_str<E: ReadError>(self, v: &str) -> Result<Value, E> {
        self.0.spend(v.len())?;
        Ok(v.into())
    }
    fn visit_string<E: ReadError>(self, v: String) -> Result<Value, E> {
        self.0.spend(v.len())?;
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    /// A YAML text that holds nothing.
    fn visit_none<E: ReadError>(self) -> Result<Value, E> {
        self.visit_unit()
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.0.path.push(Step::Index(items.len()));
            let item = seq.next_element_seed(Reader(self.0))?;
            self.0.path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(items.into()),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.spend(key.len())?;
            self.0.path.push(Step::Key(key.clone()));
            let value = map.next_value_seed(Reader(self.0))?;
            if object.insert(key, value).is_some() {
                self.0.duplicate();
            }
            self.0.path.pop();
        }
        if self.0.merges
            && let Some(merged) = object.remove(MERGE)
        {
            merge(&mut object, merged).map_err(A::Error::custom)?;
        }
        Ok(object.into())
    }
}

/// Fills in what a merge key brings; what stands there already wins, and of several the first.
fn merge(object: &mut Map<String, Value>, merged: Value) -> Result<(), &'static str> {
    match merged {
        Value::Object(fields) => {
            for (key, value) in fields {
                object.entry(key).or_insert(value);
            }
            Ok(())
        }
        Value::Array(list) if list.iter().all(Value::is_object) => list.into_iter().try_for_each(|one| merge(object, one)),
        _ => Err("a merge key (<<) takes a mapping, or a list of mappings"),
    }
}
