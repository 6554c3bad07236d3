//! How much SQLite looks at for each read: what it is asked for, and nothing else.

use super::*;
use sqlx::{Connection as _, Row as _, SqliteConnection};

/// The plan of a statement, one step a line.
async fn plan(database: &mut SqliteConnection, sql: &str) -> String {
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(sql).fetch_all(database).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail") + "\n").collect()
}

#[tokio::test]
async fn reads_find_their_rows_in_an_index_and_look_at_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    Store::open(&path).await.unwrap().close().await;
    let mut database = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let cases = [
        (GET, "SEARCH objects USING INDEX sqlite_autoindex_objects_1 (resource=? AND namespace=? AND name=?)"),
        (CURRENT_ONE, "SEARCH objects USING INDEX sqlite_autoindex_objects_1 (resource=? AND namespace=? AND name>?)"),
        (CURRENT_ALL, "SEARCH objects USING INDEX sqlite_autoindex_objects_1 (resource=? AND (namespace,name)>(?,?))"),
        (CHANGES, "SEARCH log USING INDEX log_by_resource (resource=? AND revision>?)"),
    ];
    for (sql, expected) in cases {
        // One step: no scan, and nothing is sorted.
        assert_eq!(plan(&mut database, sql).await.trim(), expected, "{sql}");
    }
    for (sql, objects) in [(PAST_ONE, "name>?"), (PAST_ALL, "(namespace,name)>(?,?)")] {
        let plan = plan(&mut database, sql).await;
        assert!(!plan.contains("SCAN objects") && !plan.contains("SCAN log"), "{sql}: {plan}");
        let found = plan.lines().find(|step| step.contains("SEARCH objects")).unwrap();
        assert!(found.contains("resource=?") && found.contains(objects), "{sql}: {plan}");
    }
}
