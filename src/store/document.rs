//! Stored documents as they are read: each alone, so that one that was damaged does not take the others along.

use super::{Error, Key, Revision};
use serde_json::{Value, json};
use sqlx::{Decode, Postgres, Sqlite, Type, error::BoxDynError, postgres::PgTypeInfo, postgres::PgValueRef};
use sqlx::{sqlite::SqliteTypeInfo, sqlite::SqliteValueRef};

/// A document's column, which in a damaged file may not even be text.
#[derive(Debug)]
pub(super) struct Stored(Vec<u8>);

impl Type<Sqlite> for Stored {
    fn type_info() -> SqliteTypeInfo {
        <Vec<u8> as Type<Sqlite>>::type_info()
    }
    fn compatible(column: &SqliteTypeInfo) -> bool {
        <Vec<u8> as Type<Sqlite>>::compatible(column)
    }
}

impl<'r> Decode<'r, Sqlite> for Stored {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        <Vec<u8> as Decode<Sqlite>>::decode(value).map(Self)
    }
}

impl Type<Postgres> for Stored {
    fn type_info() -> PgTypeInfo {
        <String as Type<Postgres>>::type_info()
    }
    fn compatible(column: &PgTypeInfo) -> bool {
        <String as Type<Postgres>>::compatible(column)
    }
}

impl<'r> Decode<'r, Postgres> for Stored {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <String as Decode<Postgres>>::decode(value).map(|text| Self(text.into_bytes()))
    }
}

impl From<String> for Stored {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl Stored {
    /// As text; what is none is replaced by U+FFFD.
    pub(super) fn text(self) -> String {
        String::from_utf8(self.0).unwrap_or_else(|damaged| String::from_utf8_lossy(damaged.as_bytes()).into_owned())
    }

    /// The document, stamped; of one that was damaged what [`degraded`] shows.
    pub(super) fn read(self, key: &Key, revision: Revision) -> Value {
        let mut document = match self.parse(key) {
            Ok(document) => document,
            Err(why) => {
                tracing::error!("{} {}/{} is damaged in the database: {why}; repair or delete it", key.resource, key.namespace, key.name);
                degraded(key, &why, &self.text())
            }
        };
        super::stamp(&mut document, revision);
        document
    }

    fn parse(&self, key: &Key) -> Result<Value, String> {
        let document: Value = serde_json::from_slice(&self.0).map_err(|e| format!("it is no JSON: {e}"))?;
        let is = |field: &str, expected: &str| document["metadata"][field].as_str().unwrap_or_default() == expected;
        if is("name", &key.name) && is("namespace", &key.namespace) { Ok(document) } else { Err("it bears another name".into()) }
    }
}

/// What stands for a document that cannot be read: where it is, why, and what is stored, as it is.
fn degraded(key: &Key, why: &str, stored: &str) -> Value {
    let condition = json!({
        "type": "Degraded", "status": "True", "reason": "Damaged", "message": format!("its document in the database is damaged: {why}"),
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    });
    let mut metadata = json!({"name": key.name});
    if !key.namespace.is_empty() {
        metadata["namespace"] = key.namespace.clone().into();
    }
    json!({"metadata": metadata, "status": {"conditions": [condition]}, "stored": stored})
}

/// Reads a document that is to be written again: a damaged one is refused, for that would lose what is left of it.
pub(super) fn parse(key: &Key, text: &str, revision: Revision) -> Result<Value, Error> {
    let mut document = serde_json::from_str(text).map_err(|e| Error::Corrupt(format!("the document of {key:?} is not JSON: {e}")))?;
    super::stamp(&mut document, revision);
    Ok(document)
}
