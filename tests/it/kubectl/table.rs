//! Every command that people type at a cluster, in order, on one namespace: what goes in, how it exits, what it says.

use super::{Kubectl, MACHINE};
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;

/// What a row expects on standard output and error together.
enum Says {
    /// Exactly this, but for white space at the ends.
    This(&'static str),
    /// All of these.
    All(&'static [&'static str]),
    Nothing,
}
use Says::{All, Nothing, This};

/// A command (words in single quotes hold together), standard input, exit code, output.
type Row = (&'static str, &'static str, i32, Says);

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, labels: {app: a}}\ndata: {color: red}\n";
const BLUE: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, labels: {app: a}}\ndata: {color: blue}\n";
const BUDGET: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\nmetadata: {name: team}\nspec: {limits: {money: {amount: \"5\"}}}\n";
const BOTH: &str = concat!(
    "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\nmetadata: {name: one}\nspec: {}\n---\n",
    "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\nmetadata: {name: two}\nspec: {parentRef: {name: one}}\n"
);
const SUSPENDED: &str = r#"
apiVersion: autovibe.dev/v1alpha1
kind: Machine
metadata: {name: add-tests}
spec:
  from: {image: micro}
  goal: {prompt: "Add end-to-end tests."}
  agent: {type: Command, command: ["true"]}
  operatingMode: Suspended
"#;
const OTHER: &str = concat!(
    "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: other}\n",
    "spec: {from: {image: micro}, goal: {prompt: p}, agent: {type: Command, command: [\"true\"]}}\n"
);
const OTHER_SUSPENDED: &str = concat!(
    "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: other}\n",
    "spec: {from: {image: micro}, goal: {prompt: p}, agent: {type: Command, command: [\"true\"]}, operatingMode: Suspended}\n"
);
const MASHINE: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Mashine\nmetadata: {name: m}\n";
const TEXTS: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: texts}\nstringData: {a: b}\n";
const STRAY: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\nmetadata: {name: stray}\nspec: {limit: 5}\n";
const GENERATED: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: made-}\n";
const UNQUOTED: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\nmetadata: {name: \"on\"}\nspec: {parentRef: {name: no}}\n";

const ROWS: &[Row] = &[
    // Create, and what is already there.
    ("create -f - --dry-run=server", MACHINE, 0, This("machine.autovibe.dev/add-tests created (server dry run)")),
    ("create -f - --dry-run=client", MACHINE, 0, This("machine.autovibe.dev/add-tests created (dry run)")),
    ("get machines", "", 0, This("No resources found in kubectl-table namespace.")),
    ("create -f -", MACHINE, 0, This("machine.autovibe.dev/add-tests created")),
    (
        "create -f -",
        MACHINE,
        1,
        This("Error from server (AlreadyExists): error when creating \"STDIN\": machines.autovibe.dev \"add-tests\" already exists"),
    ),
    ("create -f -", STRAY, 1, All(&["strict decoding error: unknown field \"spec.limit\""])),
    ("create -f - --validate=false --dry-run=server", STRAY, 0, This("budget.autovibe.dev/stray created (server dry run)")),
    (
        "create -f -",
        UNQUOTED,
        1,
        All(&["The Budget \"on\" is invalid", "spec.parentRef.name in body must be of type string: \"boolean\"; put it in quotes"]),
    ),
    ("create -f - -o jsonpath={.metadata.generateName}", GENERATED, 0, This("made-")),
    ("create namespace kubectl-table-2 -o name", "", 0, This("namespace/kubectl-table-2")),
    ("create secret generic keys --from-literal=apiKey=k", "", 0, This("secret/keys created")),
    ("create configmap from-words --from-literal=a=1 --from-literal=b=2", "", 0, This("configmap/from-words created")),
    ("create serviceaccount robot", "", 0, This("serviceaccount/robot created")),
    // Apply: new, unchanged, changed, several, wrong.
    ("apply -f -", MAP, 0, This("configmap/settings created")),
    ("apply -f -", MAP, 0, This("configmap/settings unchanged")),
    ("apply -f - --dry-run=server", BLUE, 0, This("configmap/settings configured (server dry run)")),
    ("apply -f - --dry-run=client", BLUE, 0, This("configmap/settings configured (dry run)")),
    ("diff -f -", BLUE, 1, All(&["-  color: red", "+  color: blue"])),
    ("apply -f -", BLUE, 0, This("configmap/settings configured")),
    ("diff -f -", BLUE, 0, Nothing),
    ("get configmap settings -o jsonpath={.data.color}", "", 0, This("blue")),
    ("apply -f -", BUDGET, 0, This("budget.autovibe.dev/team created")),
    ("apply -f -", BUDGET, 0, This("budget.autovibe.dev/team unchanged")),
    ("apply -f -", BOTH, 0, This("budget.autovibe.dev/one created\nbudget.autovibe.dev/two created")),
    ("apply view-last-applied budget team -o json", "", 0, All(&["\"amount\": \"5\""])),
    ("apply -f -", STRAY, 1, All(&["unknown field \"spec.limit\""])),
    ("get budget stray", "", 1, This("Error from server (NotFound): budgets.autovibe.dev \"stray\" not found")),
    ("apply -f -", MASHINE, 1, All(&["no matches for kind \"Mashine\" in version \"autovibe.dev/v1alpha1\""])),
    ("apply -f -", OTHER_SUSPENDED, 0, This("machine.autovibe.dev/other created")),
    ("get machine other -o jsonpath={.spec.operatingMode}", "", 0, This("Suspended")),
    // What is no longer in the file goes back to its default.
    ("apply -f -", OTHER, 0, This("machine.autovibe.dev/other configured")),
    ("get machine other -o jsonpath={.spec.operatingMode}", "", 0, This("Running")),
    ("delete machine other --timeout=20s", "", 0, This("machine.autovibe.dev \"other\" deleted")),
    // stringData is only written, so kubectl sends it each time.
    ("apply -f -", TEXTS, 0, This("secret/texts created")),
    ("apply -f -", TEXTS, 0, This("secret/texts configured")),
    ("get secret texts -o jsonpath={.data.a}", "", 0, This("Yg==")),
    ("get secrets", "", 0, All(&["texts", "Opaque"])),
    // Get: forms, selections, pages.
    ("get machines", "", 0, All(&["NAME ", "PHASE ", "GOAL ", "AGE", "add-tests"])),
    ("get machines -o wide", "", 0, All(&["add-tests"])),
    ("get machine.autovibe.dev/add-tests -o name", "", 0, This("machine.autovibe.dev/add-tests")),
    ("get machines.v1alpha1.autovibe.dev -o name", "", 0, This("machine.autovibe.dev/add-tests")),
    (
        "get mach,budget -o name",
        "",
        0,
        This("machine.autovibe.dev/add-tests\nbudget.autovibe.dev/one\nbudget.autovibe.dev/team\nbudget.autovibe.dev/two"),
    ),
    ("get budgets --chunk-size=1 -o name", "", 0, This("budget.autovibe.dev/one\nbudget.autovibe.dev/team\nbudget.autovibe.dev/two")),
    ("get budgets -A --chunk-size=1 --no-headers", "", 0, All(&["kubectl-table   one", "kubectl-table   two"])),
    ("get budgets --sort-by=.spec.parentRef.name -o name", "", 0, All(&["budget.autovibe.dev/two"])),
    ("get budgets -o custom-columns=N:.metadata.name,P:.spec.parentRef.name --no-headers", "", 0, All(&["two    one", "team   <none>"])),
    ("get budget two -o go-template={{.spec.parentRef.name}}", "", 0, This("one")),
    ("get budget two -o yaml --show-managed-fields", "", 0, All(&["kind: Budget", "parentRef:"])),
    ("get budgets -o json", "", 0, All(&["\"kind\": \"List\"", "\"amount\": \"5\""])),
    ("get configmaps -l app=a,x!=y -o name", "", 0, This("configmap/settings")),
    ("get configmaps -l 'app in (b, c)' -o name", "", 0, Nothing),
    ("get configmaps --field-selector metadata.name=settings -o name", "", 0, This("configmap/settings")),
    ("get configmaps --field-selector data.color=blue", "", 1, All(&["field label not supported", "data.color"])),
    ("get configmaps -l app=a --show-labels --no-headers", "", 0, All(&["app=a"])),
    ("get configmaps -L app --no-headers", "", 0, All(&["settings"])),
    ("get all", "", 0, All(&["machine.autovibe.dev/add-tests", "budget.autovibe.dev/team"])),
    ("get machine add-tests --subresource status -o jsonpath={.metadata.name}", "", 0, This("add-tests")),
    ("get machine nobody --ignore-not-found", "", 0, Nothing),
    ("get pods", "", 1, This("error: the server doesn't have a resource type \"pods\"")),
    ("get --raw /healthz", "", 0, This("ok")),
    ("get --raw /readyz?verbose", "", 0, All(&["[+]store ok"])),
    // Describe, explain, discovery, who am I.
    ("describe machine add-tests", "", 0, All(&["Name:         add-tests", "Prompt:", "Events:"])),
    ("describe configmap settings", "", 0, All(&["color:\n----\nblue"])),
    ("describe secret keys", "", 0, All(&["apiKey:  1 bytes"])),
    ("describe namespace kubectl-table", "", 0, All(&["Status:       Active"])),
    ("explain machine.spec.from", "", 0, All(&["KIND:       Machine", "FIELD: from <Object>", "checkpoint\t<string>"])),
    ("explain machine.spec.goal", "", 0, All(&["GROUP:      autovibe.dev", "prompt", "-required-"])),
    ("explain machine.metadata", "", 0, All(&["ownerReferences"])),
    ("explain secret", "", 0, All(&["stringData"])),
    ("get crds", "", 0, All(&["machines.autovibe.dev"])),
    ("explain configmap.data", "", 0, All(&["FIELD: data <map[string]string>"])),
    ("explain hubs.spec.providers --recursive", "", 0, All(&["models\t<[]string>"])),
    ("api-resources --namespaced=false -o name", "", 0, All(&["hubs.autovibe.dev", "namespaces"])),
    ("api-resources --categories=autovibe -o name", "", 0, All(&["machines.autovibe.dev", "budgets.autovibe.dev"])),
    ("api-versions", "", 0, All(&["autovibe.dev/v1alpha1", "coordination.k8s.io/v1", "v1"])),
    ("version", "", 0, All(&["Server Version: v1.34.0+autovibe"])),
    ("cluster-info", "", 1, All(&["the server doesn't have a resource type \"services\""])),
    ("auth whoami -o jsonpath={.status.userInfo.username}", "", 0, This("admin")),
    ("auth can-i create machines", "", 0, This("yes")),
    ("auth can-i --list", "", 0, All(&["*.*"])),
    ("events", "", 0, All(&["No events found"])),
    ("get events", "", 0, All(&["No resources found"])),
    // Patch, label, annotate, edit in place.
    (
        "patch machine add-tests --type merge -p '{\"spec\":{\"operatingMode\":\"Suspended\"}}'",
        "",
        0,
        This("machine.autovibe.dev/add-tests patched"),
    ),
    (
        "patch machine add-tests --type merge -p '{\"spec\":{\"operatingMode\":\"Suspended\"}}'",
        "",
        0,
        This("machine.autovibe.dev/add-tests patched (no change)"),
    ),
    (
        "patch machine add-tests --type json -p '[{\"op\":\"replace\",\"path\":\"/spec/operatingMode\",\"value\":\"Running\"}]'",
        "",
        0,
        This("machine.autovibe.dev/add-tests patched"),
    ),
    (
        "patch machine add-tests --type json -p '[{\"op\":\"test\",\"path\":\"/spec/operatingMode\",\"value\":\"Off\"}]'",
        "",
        1,
        This("The request is invalid: the server rejected our request due to an error in our request"),
    ),
    (
        "patch machine add-tests --type merge -p '{\"spec\":{\"goal\":{\"prompt\":\"Other.\"}}}'",
        "",
        1,
        All(&["The Machine \"add-tests\" is invalid", "spec.goal: Forbidden: is immutable; create a new Machine instead"]),
    ),
    ("patch machine add-tests -p '{}'", "", 1, All(&["application/strategic-merge-patch+json is not supported"])),
    (
        "patch machine add-tests --subresource status --type merge -p '{\"status\":{\"phase\":\"Waiting\"}}'",
        "",
        0,
        This("machine.autovibe.dev/add-tests patched"),
    ),
    ("patch configmap settings -p '{\"data\":{\"size\":\"2\"}}'", "", 0, This("configmap/settings patched")),
    ("label machine add-tests team=a", "", 0, This("machine.autovibe.dev/add-tests labeled")),
    ("label machine add-tests team=b", "", 1, All(&["'team' already has a value (a), and --overwrite is false"])),
    ("label machine add-tests team=b --overwrite", "", 0, This("machine.autovibe.dev/add-tests labeled")),
    ("label machine add-tests team-", "", 0, This("machine.autovibe.dev/add-tests unlabeled")),
    ("annotate machine add-tests note=n", "", 0, This("machine.autovibe.dev/add-tests annotated")),
    ("label machine add-tests 'team=not ok'", "", 1, All(&["a valid label must be an empty string or consist of"])),
    ("scale machine add-tests --replicas=2", "", 1, All(&["Error from server (NotFound)"])),
    ("replace -f -", SUSPENDED, 0, This("machine.autovibe.dev/add-tests replaced")),
    ("edit machine add-tests", "", 0, This("machine.autovibe.dev/add-tests edited")),
    ("get machine add-tests -o jsonpath={.spec.operatingMode}", "", 0, This("Running")),
    ("replace --force -f -", MACHINE, 0, All(&["machine.autovibe.dev/add-tests replaced"])),
    ("replace -f -", STRAY, 1, All(&["budgets.autovibe.dev \"stray\" not found"])),
    // Server-side apply is refused, and says what is taken.
    ("apply --server-side -f -", MAP, 1, All(&["Server-side apply not available on the server", "application/merge-patch+json"])),
    // Wait.
    ("wait configmap/settings --for=jsonpath={.data.color}=blue --timeout=5s", "", 0, This("configmap/settings condition met")),
    ("wait machine/add-tests --for=condition=Never --timeout=1s", "", 1, All(&["timed out waiting for the condition"])),
    ("wait machine/nobody --for=delete --timeout=5s", "", 0, Nothing),
    ("wait machine/add-tests --for=create --timeout=5s", "", 0, This("machine.autovibe.dev/add-tests condition met")),
    // Delete, in every way.
    ("delete budget two --dry-run=server", "", 0, This("budget.autovibe.dev \"two\" deleted (server dry run)")),
    ("delete budget two --cascade=orphan --wait=false", "", 0, This("budget.autovibe.dev \"two\" deleted")),
    ("delete budget nobody", "", 1, This("Error from server (NotFound): budgets.autovibe.dev \"nobody\" not found")),
    ("delete budget nobody --ignore-not-found", "", 0, Nothing),
    ("delete configmap -l app=a --now", "", 0, This("configmap \"settings\" deleted")),
    ("delete -f - --timeout=20s", BUDGET, 0, This("budget.autovibe.dev \"team\" deleted")),
    ("delete machine add-tests --timeout=20s", "", 0, This("machine.autovibe.dev \"add-tests\" deleted")),
    ("delete configmaps --all --timeout=20s", "", 0, All(&["configmap \"from-words\" deleted"])),
    ("delete namespace kubectl-table-2 --timeout=30s", "", 0, All(&["namespace \"kubectl-table-2\" deleted"])),
    ("delete namespace default", "", 1, All(&["namespaces \"default\" is forbidden"])),
];

#[tokio::test]
async fn every_command_exits_and_says_as_it_should() {
    let Some(kubectl) = Kubectl::new("kubectl-table").await else { return };
    let mut wrong = Vec::new();
    for (command, stdin, code, says) in ROWS {
        let mut running = kubectl
            .command("")
            .args(words(command))
            .env("KUBE_EDITOR", "sed -i s/Suspended/Running/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut pipe = running.stdin.take().expect("piped");
        pipe.write_all(stdin.as_bytes()).await.ok();
        drop(pipe);
        let output = running.wait_with_output().await.expect("kubectl ends");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let fits = match says {
            This(text) => said.trim() == *text,
            All(parts) => parts.iter().all(|part| said.contains(part)),
            Nothing => said.trim().is_empty(),
        };
        if !fits || output.status.code() != Some(*code) {
            wrong.push(format!("kubectl {command}\n  exited {:?}, not {code}, and said:\n{said}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows are wrong:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}

/// Splits at spaces outside of single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
