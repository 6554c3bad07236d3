//! The guest scripts, as text: POSIX sh that busybox runs. Data reaches them as arguments, environment or standard input,
//! never as part of the text. Running them is the driver's.

macro_rules! script {
    ($file:literal) => {
        concat!(include_str!("scripts/prelude.sh"), include_str!($file))
    };
}

/// A verb that a guest is told to do: its name is `$0` of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verb {
    pub name: &'static str,
    pub script: &'static str,
}

/// Args: host name, machine id (32 hex digits), seconds since 1970.
pub const PERSONALISE: Verb = Verb { name: "autovibe-personalise", script: script!("scripts/personalise.sh") };
/// Args: workspace, ref (may be empty), what the bundle is of. It lies at [`SOURCE_BUNDLE`].
pub const SOURCE: Verb = Verb { name: "autovibe-source", script: script!("scripts/source.sh") };
/// Args: launch number, the agent's argv. Standard input: [`super::exports`].
pub const LAUNCH: Verb = Verb {
    name: "autovibe-launch",
    script: concat!(
        include_str!("scripts/prelude.sh"),
        include_str!("scripts/launch_head.sh"),
        include_str!("scripts/prelude.sh"),
        include_str!("scripts/wrapper.sh"),
        "AUTOVIBE_WRAPPER\n",
        include_str!("scripts/launch.sh")
    ),
};
/// Args: seconds since 1970. Standard input: a seed for its random numbers.
pub const GO_ON: Verb = Verb { name: "autovibe-go-on", script: script!("scripts/go_on.sh") };
/// No args. Prints `state=`, `launch=`, `exit=` lines.
pub const STATUS: Verb = Verb { name: "autovibe-status", script: script!("scripts/status.sh") };
/// Args: timeout in seconds, workspace, command. Its exit code is the verdict; prints the end of the output.
pub const VERIFY: Verb = Verb { name: "autovibe-verify", script: script!("scripts/verify.sh") };
/// Args: directory of session files (may be empty), tool_use ids with commas, longest wait in ms. Prints `flushed=true|false`.
pub const FLUSH: Verb = Verb { name: "autovibe-flush", script: script!("scripts/flush.sh") };
/// Args: longest time for each in seconds, directories. Prints `SHA256 PATH` of each that is there.
pub const DIGEST: Verb = Verb { name: "autovibe-digest", script: script!("scripts/digest.sh") };
/// Args: id, timeout in seconds, `agent` or `root`, workspace, most bytes of a stream, command. Exits as it did; prints nothing.
pub const EXEC: Verb = Verb {
    name: "autovibe-exec",
    script: concat!(include_str!("scripts/prelude.sh"), include_str!("scripts/exec_head.sh"), include_str!("scripts/exec.sh")),
};
/// Args: id, bytes of standard output and of standard error to pass over, most bytes of each. Prints what such a command wrote, in base64.
pub const EXEC_READ: Verb = Verb {
    name: "autovibe-exec-read",
    script: concat!(include_str!("scripts/prelude.sh"), include_str!("scripts/exec_head.sh"), include_str!("scripts/exec_read.sh")),
};
/// Args: id, `kill` or nothing. Removes what such a command wrote, and ends it before.
pub const EXEC_END: Verb = Verb {
    name: "autovibe-exec-end",
    script: concat!(include_str!("scripts/prelude.sh"), include_str!("scripts/exec_head.sh"), include_str!("scripts/exec_end.sh")),
};
/// Args: longest wait in seconds. Prints `reached=`, `why=` and `ended=` lines: whether the gateway answers to it.
pub const REACH: Verb = Verb { name: "autovibe-reach", script: script!("scripts/reach.sh") };
/// No args. Ends the agent's processes.
pub const STOP: Verb = Verb { name: "autovibe-stop", script: script!("scripts/stop.sh") };
/// Args: workspace, name, base name (may be empty), message of the commit. Prints a base64 git bundle, or `none`.
pub const BUNDLE: Verb = Verb { name: "autovibe-bundle", script: script!("scripts/bundle.sh") };

/// Every verb, for tests and for guests that answer by name.
pub const VERBS: [Verb; 14] =
    [PERSONALISE, SOURCE, LAUNCH, GO_ON, STATUS, VERIFY, FLUSH, DIGEST, EXEC, EXEC_READ, EXEC_END, REACH, STOP, BUNDLE];

/// Exit code of [`SOURCE`] where the workspace has another source, which its standard error names.
pub const OTHER_SOURCE: i32 = 65;

/// Where the hub writes the source bundle in the guest.
pub const SOURCE_BUNDLE: &str = "/var/lib/autovibe/source.bundle";

/// Starts or resumes Claude Code; part of its argv.
pub const CLAUDE: &str = include_str!("scripts/claude.sh");
/// Starts or resumes Qwen Code; part of its argv.
pub const QWEN: &str = include_str!("scripts/qwen.sh");
/// Starts or resumes Aider; part of its argv.
pub const AIDER: &str = include_str!("scripts/aider.sh");
