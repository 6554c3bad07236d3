//! The rules by which tool calls are judged: tables only. Of several that fit a command, the first holds.

use super::risk::Class::{self, Destructive, LeavesVm, Read, Repeatable, StateChange};

/// What a tool of an agent's program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// Runs `input.command`.
    Shell,
    /// Writes a whole file.
    Write,
    /// Changes part of a file.
    Edit,
    Read,
}

/// Tools by the names that Claude Code and Qwen Code give them. Those of sub-agents only read: what a sub-agent does is judged in
/// its own answers.
pub(super) const TOOLS: &[(&[&str], Tool)] = &[
    (&["Bash", "run_shell_command", "shell"], Tool::Shell),
    (&["Write", "write_file"], Tool::Write),
    (&["Edit", "MultiEdit", "NotebookEdit", "edit", "replace"], Tool::Edit),
    (
        &[
            "Read",
            "Grep",
            "Glob",
            "LS",
            "TodoWrite",
            "TaskCreate",
            "TaskGet",
            "TaskList",
            "TaskOutput",
            "TaskUpdate",
            "AskUserQuestion",
            "EnterPlanMode",
            "ExitPlanMode",
            "Agent",
            "Task",
            "Skill",
            "WebFetch",
            "WebSearch",
            "list_directory",
            "read_file",
            "read_many_files",
            "grep_search",
            "glob",
            "todo_write",
            "agent",
            "task",
            "skill",
            "tool_search",
            "ask_user_question",
            "exit_plan_mode",
            "web_fetch",
        ],
        Tool::Read,
    ),
];

/// A program that only starts another one.
pub(super) struct Wrapper {
    pub(super) name: &'static str,
    /// Options whose value is the next word.
    pub(super) valued: &'static [&'static str],
    /// Operands before the program.
    pub(super) operands: usize,
    /// It gives more rights.
    pub(super) rights: bool,
}

const fn wrapper(name: &'static str, valued: &'static [&'static str], operands: usize) -> Wrapper {
    Wrapper { name, valued, operands, rights: false }
}

pub(super) const WRAPPERS: &[Wrapper] = &[
    Wrapper { name: "sudo", valued: &["-u", "-g", "-h", "-p", "-C", "-D", "-R", "-T"], operands: 0, rights: true },
    Wrapper { name: "doas", valued: &["-u", "-C"], operands: 0, rights: true },
    wrapper("env", &["-u", "-C", "-S"], 0),
    wrapper("nohup", &[], 0),
    wrapper("timeout", &["-s", "-k"], 1),
    wrapper("nice", &["-n"], 0),
    wrapper("ionice", &["-c", "-n"], 0),
    wrapper("xargs", &["-n", "-I", "-P", "-L", "-d", "-s", "-a", "-E"], 0),
    wrapper("command", &[], 0),
    wrapper("builtin", &[], 0),
    wrapper("exec", &["-a"], 0),
    wrapper("setsid", &[], 0),
    wrapper("stdbuf", &["-i", "-o", "-e"], 0),
    wrapper("time", &["-f", "-o"], 0),
];

pub(super) const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "fish"];
pub(super) const SQL_CLIENTS: &[&str] = &["psql", "mysql", "mariadb", "sqlite3", "duckdb", "clickhouse-client"];

/// A rule: programs, the subcommand, and arguments of which one must be given (none: whatever is given).
pub(super) struct Rule {
    pub(super) programs: &'static [&'static str],
    pub(super) sub: &'static [&'static str],
    pub(super) with: &'static [&'static str],
    pub(super) class: Class,
}

const fn rule(programs: &'static [&'static str], sub: &'static [&'static str], with: &'static [&'static str], class: Class) -> Rule {
    Rule { programs, sub, with, class }
}

const GIT: &[&str] = &["git"];
const FORCE: &[&str] = &["-f", "--force"];

pub(super) const COMMANDS: &[Rule] = &[
    // What leaves the VM.
    rule(GIT, &["push"], &[], LeavesVm),
    rule(GIT, &["send-email"], &[], LeavesVm),
    rule(
        &["curl"],
        &[],
        &[
            "-d",
            "-F",
            "-T",
            "-X",
            "--data",
            "--data-raw",
            "--data-binary",
            "--data-urlencode",
            "--json",
            "--form",
            "--upload-file",
            "--request",
        ],
        LeavesVm,
    ),
    rule(&["wget"], &[], &["--post-data", "--post-file", "--method", "--body-data", "--body-file"], LeavesVm),
    rule(&["ssh", "scp", "sftp", "rsync", "ftp", "nc", "ncat", "telnet", "socat"], &[], &[], LeavesVm),
    rule(&["npm", "pnpm", "yarn", "cargo", "poetry", "uv", "bun"], &["publish"], &[], LeavesVm),
    rule(&["yarn"], &["npm", "publish"], &[], LeavesVm),
    rule(&["gem"], &["push"], &[], LeavesVm),
    rule(&["twine"], &["upload"], &[], LeavesVm),
    rule(&["docker", "podman", "helm"], &["push"], &[], LeavesVm),
    rule(&["terraform", "tofu", "pulumi", "cdk"], &["apply"], &[], LeavesVm),
    rule(&["terraform", "tofu", "pulumi", "cdk"], &["destroy"], &[], LeavesVm),
    rule(&["pulumi"], &["up"], &[], LeavesVm),
    rule(&["cdk"], &["deploy"], &[], LeavesVm),
    rule(&["kubectl", "helm", "aws", "gcloud", "az", "gh", "glab", "flyctl", "vercel", "netlify", "heroku"], &[], &[], LeavesVm),
    rule(&["mail", "mailx", "sendmail", "mutt"], &[], &[], LeavesVm),
    // What destroys something in the VM.
    rule(&["rm"], &[], &["-r", "-R", "-f", "--recursive", "--force"], Destructive),
    rule(GIT, &["reset"], &["--hard"], Destructive),
    rule(GIT, &["clean"], FORCE, Destructive),
    rule(GIT, &["checkout"], &["=.", "=..", "=--", "-f", "--force"], Destructive),
    rule(GIT, &["restore"], &[], Destructive),
    rule(GIT, &["stash", "drop"], &[], Destructive),
    rule(GIT, &["stash", "clear"], &[], Destructive),
    rule(GIT, &["branch"], &["-D"], Destructive),
    rule(GIT, &["filter-branch"], &[], Destructive),
    rule(GIT, &["commit"], &["--amend"], Destructive),
    rule(&["truncate", "dd", "mkfs*", "shred", "wipefs", "fdisk", "parted", "sgdisk"], &[], &[], Destructive),
    rule(&["find"], &[], &["=-delete"], Destructive),
    rule(&["crontab"], &[], &["-r"], Destructive),
    rule(&["kill"], &[], &["=-1"], Destructive),
    rule(&["chmod", "chown", "chgrp"], &[], &["-R", "--recursive"], Destructive),
    rule(&["mv"], &[], &["=.git", "=.git/"], Destructive),
    rule(&["docker", "podman"], &["system", "prune"], &[], Destructive),
    rule(&["docker", "podman"], &["volume", "rm"], &[], Destructive),
    rule(&["dropdb", "dropuser"], &[], &[], Destructive),
    // What only reads.
    rule(&["sed"], &[], &["-i", "--in-place"], StateChange),
    rule(&["find"], &[], &["=-fprint", "=-fprintf", "=-fls"], StateChange),
    rule(&["sort"], &[], &["-o", "--output"], StateChange),
    rule(
        &[
            "ls",
            "cat",
            "head",
            "tail",
            "grep",
            "egrep",
            "fgrep",
            "rg",
            "ag",
            "find",
            "pwd",
            "wc",
            "echo",
            "printf",
            "true",
            "false",
            "test",
            "[",
            "[[",
            "which",
            "type",
            "file",
            "stat",
            "du",
            "df",
            "ps",
            "id",
            "whoami",
            "uname",
            "date",
            "env",
            "printenv",
            "sort",
            "uniq",
            "cut",
            "tr",
            "diff",
            "cmp",
            "sed",
            "jq",
            "yq",
            "tree",
            "basename",
            "dirname",
            "realpath",
            "readlink",
            "sleep",
            "cd",
            "less",
            "more",
            "column",
            "nl",
            "tac",
            "comm",
            "paste",
            "fold",
            "seq",
            "expr",
            "md5sum",
            "sha256sum",
            "xxd",
            "od",
            "strings",
            "hostname",
            "free",
            "uptime",
            "nproc",
            "lsof",
            "ss",
            "export",
            "set",
            "read",
            "return",
            "exit",
            "break",
            "continue",
            "wait",
            ":",
        ],
        &[],
        &[],
        Read,
    ),
    rule(GIT, &["status"], &[], Read),
    rule(GIT, &["log"], &[], Read),
    rule(GIT, &["diff"], &[], Read),
    rule(GIT, &["show"], &[], Read),
    rule(GIT, &["blame"], &[], Read),
    rule(GIT, &["rev-parse"], &[], Read),
    rule(GIT, &["ls-files"], &[], Read),
    rule(GIT, &["grep"], &[], Read),
    rule(GIT, &["describe"], &[], Read),
    rule(&["cargo"], &["metadata"], &[], Read),
    rule(&["cargo"], &["tree"], &[], Read),
    // What can be repeated.
    rule(GIT, &["add"], &[], Repeatable),
    rule(GIT, &["fetch"], &[], Repeatable),
    rule(&["cargo"], &["build"], &[], Repeatable),
    rule(&["cargo"], &["check"], &[], Repeatable),
    rule(&["cargo"], &["test"], &[], Repeatable),
    rule(&["cargo"], &["nextest"], &[], Repeatable),
    rule(&["cargo"], &["clippy"], &[], Repeatable),
    rule(&["cargo"], &["fmt"], &[], Repeatable),
    rule(&["cargo"], &["doc"], &[], Repeatable),
    rule(&["go"], &["build"], &[], Repeatable),
    rule(&["go"], &["test"], &[], Repeatable),
    rule(&["go"], &["vet"], &[], Repeatable),
    rule(&["npm", "pnpm", "yarn", "bun"], &["test"], &[], Repeatable),
    rule(&["npm", "pnpm", "yarn", "bun"], &["run", "test"], &[], Repeatable),
    rule(&["npm", "pnpm", "yarn", "bun"], &["run", "build"], &[], Repeatable),
    rule(&["npm", "pnpm", "yarn", "bun"], &["run", "lint"], &[], Repeatable),
    rule(&["dotnet", "mvn", "gradle", "gradlew", "mvnw", "deno"], &["test"], &[], Repeatable),
    rule(&["make"], &["test"], &[], Repeatable),
    rule(&["make"], &["check"], &[], Repeatable),
    rule(
        &[
            "mkdir", "touch", "pytest", "jest", "vitest", "mocha", "tox", "ctest", "rspec", "phpunit", "eslint", "prettier", "black",
            "ruff", "mypy", "pyright", "tsc", "rustfmt", "gofmt", "rustc", "gcc", "g++", "clang", "cc", "tee",
        ],
        &[],
        &[],
        Repeatable,
    ),
];

/// Commands that run tests.
pub(super) const TEST_RUNS: &[Rule] = &[
    rule(&["cargo", "go", "npm", "pnpm", "yarn", "bun", "deno", "dotnet", "mvn", "mvnw", "gradle", "gradlew"], &["test"], &[], Repeatable),
    rule(&["cargo"], &["nextest", "run"], &[], Repeatable),
    rule(&["npm", "pnpm", "yarn", "bun"], &["run", "test"], &[], Repeatable),
    rule(&["make"], &["test"], &[], Repeatable),
    rule(&["make"], &["check"], &[], Repeatable),
    rule(&["python", "python3"], &["pytest"], &["-m"], Repeatable),
    rule(&["python", "python3"], &["unittest"], &["-m"], Repeatable),
    rule(&["pytest", "jest", "vitest", "mocha", "tox", "ctest", "rspec", "phpunit"], &[], &[], Repeatable),
];
/// Commands that make a commit.
pub(super) const COMMITS: &[Rule] = &[rule(GIT, &["commit"], &[], StateChange), rule(GIT, &["merge"], &[], StateChange)];
/// Commands by which files go or get other names.
pub(super) const REMOVALS: &[Rule] = &[
    rule(&["rm", "mv", "rmdir", "unlink"], &[], &[], StateChange),
    rule(GIT, &["rm"], &[], StateChange),
    rule(GIT, &["mv"], &[], StateChange),
];

/// What the output of tests that failed says.
pub(super) const FAILED: &[&str] =
    &["FAILED", "failures:", "FAIL\t", "FAIL:", "FAIL ", "Tests failed", "panicked at", "Traceback (most recent call last)"];
/// What the output of tests that passed says.
pub(super) const PASSED: &[&str] = &["test result: ok", " passed", "\nOK", "\nok ", "PASS", "100% tests passed"];

/// Files that decide how the rest is built, migrated or delivered: by name, or by a part of the path.
pub(super) const KEY_FILES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "package.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "pyproject.toml",
    "requirements.txt",
    "poetry.lock",
    "uv.lock",
    "setup.py",
    "go.mod",
    "go.sum",
    "pom.xml",
    "build.gradle",
    "Gemfile",
    "Gemfile.lock",
    "composer.json",
    "Makefile",
    "CMakeLists.txt",
    "Dockerfile",
    "Containerfile",
    "docker-compose.yml",
    "docker-compose.yaml",
    "compose.yaml",
    ".gitlab-ci.yml",
    "Jenkinsfile",
];
pub(super) const KEY_DIRECTORIES: &[&str] = &["/migrations/", "/.github/workflows/", "/.circleci/"];

/// What changes of files count, and from which sum on they are significant.
pub(super) mod score {
    pub(in crate::boundary) const EDIT: u32 = 1;
    pub(in crate::boundary) const NEW_FILE: u32 = 2;
    pub(in crate::boundary) const MANY_LINES: u32 = 2;
    pub(in crate::boundary) const REMOVAL: u32 = 3;
    pub(in crate::boundary) const MANY_FILES: u32 = 3;
    pub(in crate::boundary) const KEY_FILE: u32 = 3;
    pub(in crate::boundary) const COMMAND: u32 = 2;
    pub(in crate::boundary) const SIGNIFICANT: u32 = 3;
    /// More changed lines than this are many.
    pub(in crate::boundary) const LINES: usize = 200;
    /// More files than this are.
    pub(in crate::boundary) const FILES: usize = 5;
}
