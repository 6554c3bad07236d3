//! What `autovibe apply` says of files: which document, which line, what to do; and that nothing of them was applied.

use crate::process::{ANY_PORTS, Hub, refused, said, write};

const GOOD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\ndata: {a: b}\n";
const BUDGET: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\n";
const MACHINE: &str =
    "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: m}\nspec:\n  from: {image: i}\n  goal:\n    prompt: p\n";

/// What is wrong, the file, what must be said; `FILE` stands for its path.
type Row = (&'static str, String, &'static [&'static str]);

fn rows() -> Vec<Row> {
    let after = |text: &str| format!("{GOOD}---\n{text}");
    let machine = |more: &str| format!("{MACHINE}{more}");
    vec![
        ("nothing", String::new(), &["the files hold no objects"]),
        ("only marks", "---\n---\n# a\n---\n".into(), &["the files hold no objects"]),
        (
            "a word",
            "hello\n".into(),
            &["nothing was applied: FILE, document 1: it is no object; write apiVersion, kind, metadata and spec"],
        ),
        ("a second document that is a list", after("- a\n"), &["nothing was applied: FILE, document 2: it is no object"]),
        ("a tab", after("metadata:\n\tname: a\n"), &["nothing was applied: FILE, document 2: ", "line 7 column 1"]),
        ("an open brace", after("metadata: {name: a\n"), &["nothing was applied: FILE, document 2: ", "line 7 column 1"]),
        (
            "a huge number",
            after("metadata: {name: a}\nspec: 99999999999999999999999\n"),
            &["document 2: spec: ", "put it in quotes at line 7 column 7"],
        ),
        (
            "no apiVersion",
            after("kind: Machine\nmetadata: {name: a}\n"),
            &["document 2: apiVersion: Required value: write apiVersion: autovibe.dev/v1alpha1"],
        ),
        ("no kind", after("apiVersion: v1\nmetadata: {name: a}\n"), &["document 2: kind: Required value: write for example kind: Machine"]),
        ("no name", after("apiVersion: v1\nkind: ConfigMap\n"), &["document 2: metadata.name: Required value: give the ConfigMap a name"]),
        ("a name that is a number", after("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 5}\n"), &["document 2", "metadata.name"]),
        ("a kind that is not served", after("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"), &["document 2: ", "Pod"]),
        ("a misspelt kind", after("apiVersion: autovibe.dev/v1alpha1\nkind: Mashine\nmetadata: {name: a}\n"), &["document 2: ", "Mashine"]),
        (
            "another version",
            after("apiVersion: autovibe.dev/v2\nkind: Machine\nmetadata: {name: a}\n"),
            &["document 2: ", "autovibe.dev/v2"],
        ),
        ("the same twice", after(GOOD), &["document 2 (ConfigMap default/good): is written twice; the first is FILE, document 1"]),
        (
            "a key twice",
            after(&format!("{BUDGET}metadata: {{name: b}}\nspec:\n  parentRef: {{name: x}}\n  parentRef: {{name: y}}\n")),
            &["document 2, line 10: spec.parentRef: is written twice"],
        ),
        (
            "an unknown field",
            after(&format!("{BUDGET}metadata: {{name: b}}\nspec:\n  limit: 5\n")),
            &["nothing was applied: FILE, document 2 (Budget default/b), line 10: spec.limit: there is no such field"],
        ),
        (
            "two unknown fields",
            after(&format!("{BUDGET}metadata: {{name: b}}\nspec:\n  limit: 5\n  more: 6\n")),
            &[
                "nothing was applied, 2 things are wrong:",
                "line 10: spec.limit: there is no such field",
                "line 11: spec.more: there is no such field",
            ],
        ),
        (
            "a wrong type",
            after(&machine("  operatingMode: 5\n")),
            &["document 2 (Machine default/m), line 13: spec.operatingMode: ", "must be of type string: \"integer\"; put it in quotes"],
        ),
        (
            "Norway",
            after(&format!("{BUDGET}metadata: {{name: b}}\nspec:\n  parentRef:\n    name: false\n")),
            &["line 11: spec.parentRef.name: ", "must be of type string: \"boolean\"; put it in quotes"],
        ),
        (
            "no choice of these",
            after(&machine("  operatingMode: Off\n")),
            &["line 13: spec.operatingMode: Unsupported value: \"Off\": supported values: \"Running\", \"Suspended\""],
        ),
        ("an item of a list", after(&machine("    after: [a, 5]\n")), &["line 13: spec.goal.after[1]: ", "put it in quotes"]),
        (
            "what is missing",
            after(&format!("{BUDGET}metadata: {{name: b}}\nspec:\n  limits:\n    money: {{currency: USD}}\n")),
            &["line 11: spec.limits.money.amount: Required value"],
        ),
        (
            "a unit that is none",
            after(&machine("  resources:\n    memory: 4GB\n")),
            &["line 14: spec.resources.memory: ", "\"4GB\"", "4Gi"],
        ),
        ("two sources", after(&MACHINE.replace("{image: i}", "{image: i, checkpoint: c}")), &["line 10: spec.from: ", "exactly one of"]),
        (
            "a wrong name",
            after("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: A_b\n"),
            &["document 2 (ConfigMap default/A_b), line 9: metadata.name: ", "lower case alphanumeric"],
        ),
        (
            "a wrong label",
            after("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels:\n    a: not ok\n"),
            &["line 10: metadata.labels: ", "a valid label must be"],
        ),
        (
            "a namespace that is not there",
            after("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n"),
            &["document 2 (ConfigMap nowhere/a): ", "namespaces \"nowhere\" not found"],
        ),
        (
            "an item of a List",
            format!(
                "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {{name: good}}\n- {}",
                BUDGET.replace('\n', "\n  ") + "metadata: {name: b}\n  spec:\n    limit: 5\n"
            ),
            &["(Budget default/b), line 11: spec.limit: there is no such field"],
        ),
        ("an item of a List that is none", "apiVersion: v1\nkind: List\nitems: [5]\n".into(), &["document 1: it is no object"]),
        (
            "carriage returns and an unknown field",
            GOOD.replace('\n', "\r\n") + "---\r\n" + &format!("{BUDGET}metadata: {{name: b}}\nspec:\n  limit: 5\n").replace('\n', "\r\n"),
            &["line 10: spec.limit: there is no such field"],
        ),
        (
            "a mark of order and an unknown field",
            format!("\u{feff}{}", after(&format!("{BUDGET}metadata: {{name: b}}\nspec: {{limit: 5}}\n"))),
            &["line 9: spec.limit: there is no such field"],
        ),
        (
            "several that are wrong",
            after(&format!("{BUDGET}metadata: {{name: b}}\nspec: {{limit: 5}}\n---\n{}", machine("  operatingMode: Off\n"))),
            &[
                "2 things are wrong",
                "document 2 (Budget default/b), line 9: spec.limit",
                "document 3 (Machine default/m), line 18: spec.operatingMode",
            ],
        ),
    ]
}

#[test]
fn apply_names_document_line_and_remedy_and_applies_nothing() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let hub = Hub::start(data, &ANY_PORTS).serves();
    let mut faults = Vec::new();
    for (what, text, says) in rows() {
        let file = write(&data.join("file.yaml"), &text);
        let complaint = refused(data, &["apply", "-f", &file]);
        let lacks: Vec<String> = says.iter().map(|part| part.replace("FILE", &file)).filter(|part| !complaint.contains(part)).collect();
        if !lacks.is_empty() {
            faults.push(format!("{what}: {lacks:?} is not in:\n{complaint}of\n{text}"));
        }
    }
    // Bytes that are no text.
    let bytes = data.join("bytes.yaml");
    std::fs::write(&bytes, b"metadata: \xff\n").unwrap();
    let complaint = refused(data, &["apply", "-f", &bytes.display().to_string()]);
    assert!(complaint.contains("bytes.yaml cannot be read as UTF-8 text"), "{complaint}");
    assert!(faults.is_empty(), "{} are said wrongly:\n{}", faults.len(), faults.join("\n"));
    for kind in ["configmaps", "budgets", "machines"] {
        assert!(!said(data, &["get", kind, "-o", "name"]).contains('/'), "nothing is applied of a file that is wrong");
    }
    assert_eq!(hub.terminate().0, Some(0));
}
