//! What a tool call may do, by rules that are data: from reading to what no checkpoint can undo.
//!
//! A shell command is judged by each of its parts. What is not known counts as a change of state. This tells what a call most
//! likely does; it is no wall: a script, a variable or another program may do the same unseen.

use super::rules::{COMMANDS, Rule, SHELLS, SQL_CLIENTS, TOOLS, Tool, WRAPPERS};
use super::shell::{self, Command, Then};
use serde_json::Value;

/// Scripts within scripts that are looked into.
const DEPTH: usize = 4;

/// How much a tool call can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    #[default]
    Read,
    /// Changes what can be made again: builds, tests.
    Repeatable,
    /// Changes the VM.
    StateChange,
    /// Destroys something in the VM, which a checkpoint undoes.
    Destructive,
    /// Reaches beyond the VM, which none undoes.
    LeavesVm,
}

impl Class {
    /// Whether a checkpoint is due before it.
    pub fn is_risky(self) -> bool {
        self >= Self::Destructive
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Repeatable => "can be repeated",
            Self::StateChange => "changes state",
            Self::Destructive => "destroys",
            Self::LeavesVm => "leaves the VM",
        }
    }
}

/// What a call does, and by which rule: no text of the call itself, which may hold secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Risk {
    pub class: Class,
    pub rule: String,
}

impl Risk {
    fn of(class: Class, rule: impl Into<String>) -> Self {
        Self { class, rule: rule.into() }
    }

    fn raise(&mut self, other: Self) {
        if self.rule.is_empty() || other.class > self.class {
            *self = other;
        }
    }
}

/// Judges a tool call.
pub fn risk(name: &str, input: &Value) -> Risk {
    match tool(name) {
        Some(Tool::Shell) => match input["command"].as_str() {
            Some(command) => of_script(command, 0),
            None => Risk::of(Class::StateChange, name),
        },
        Some(Tool::Write | Tool::Edit) => Risk::of(Class::StateChange, name),
        Some(Tool::Read) => Risk::of(Class::Read, name),
        None => Risk::of(Class::StateChange, "a tool that is not known"),
    }
}

/// What kind of tool it is, by its name.
pub(super) fn tool(name: &str) -> Option<Tool> {
    TOOLS.iter().find(|(names, _)| names.contains(&name)).map(|(_, tool)| *tool)
}

fn of_script(text: &str, depth: usize) -> Risk {
    let script = shell::read(text);
    let mut all = Risk::default();
    let mut before: Option<(&Command, Then)> = None;
    for command in &script.commands {
        let piped = before.filter(|(_, then)| *then == Then::Pipe).map(|(command, _)| command);
        all.raise(of_command(command, piped, depth));
        before = Some((command, command.then));
    }
    if script.unclear {
        all.raise(Risk::of(Class::StateChange, "a command that is not understood"));
    }
    all
}

fn of_command(command: &Command, piped: Option<&Command>, depth: usize) -> Risk {
    if depth > DEPTH {
        return Risk::of(Class::StateChange, "a command that is not understood");
    }
    let mut all = Risk::default();
    for target in &command.writes {
        if ["/dev/sd", "/dev/vd", "/dev/nvme"].iter().any(|disk| target.starts_with(disk)) {
            all.raise(Risk::of(Class::Destructive, "a write to a disk"));
        } else if !target.starts_with("/dev/") {
            all.raise(Risk::of(Class::StateChange, "a redirection"));
        }
    }
    if !command.appends.is_empty() {
        all.raise(Risk::of(Class::Repeatable, "a redirection"));
    }
    let (words, rights) = unwrapped(&command.words);
    if rights {
        all.raise(Risk::of(Class::StateChange, "sudo"));
    }
    let Some(program) = words.first() else {
        if !command.words.is_empty() {
            // Assignments alone, or a wrapper of nothing.
            all.raise(Risk::of(Class::Repeatable, "an assignment"));
        }
        return all;
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    if SHELLS.contains(&name) {
        all.raise(of_shell(name, words, command, piped, depth));
        return all;
    }
    if name == "eval" {
        all.raise(of_script(&words[1..].join(" "), depth + 1));
        return all;
    }
    if SQL_CLIENTS.contains(&name) && words.iter().chain([&command.input]).any(|text| is_destructive_sql(text)) {
        all.raise(Risk::of(Class::Destructive, "SQL that deletes"));
    }
    if name == "find"
        && let Some(at) = words.iter().position(|word| matches!(word.as_str(), "-exec" | "-execdir" | "-ok"))
    {
        let inner = Command { words: words[at + 1..].to_vec(), ..Command::default() };
        all.raise(of_command(&inner, None, depth + 1));
    }
    let mut by_name = by_rules(name, &words[1..]);
    let foreign = program.contains('/') && !program.contains("bin/");
    if foreign && by_name.class < Class::StateChange {
        by_name = Risk::of(Class::StateChange, "a program of the workspace");
    }
    all.raise(by_name);
    all
}

fn of_shell(name: &str, words: &[String], command: &Command, piped: Option<&Command>, depth: usize) -> Risk {
    let script = words.iter().skip(1).position(|word| word.starts_with('-') && !word.starts_with("--") && word.contains('c'));
    if let Some(script) = script.and_then(|at| words.get(at + 2)) {
        return of_script(script, depth + 1);
    }
    let from_network = |before: &Command| {
        let (words, _) = unwrapped(&before.words);
        words.first().is_some_and(|program| matches!(program.rsplit('/').next(), Some("curl" | "wget")))
    };
    if piped.is_some_and(from_network) {
        return Risk::of(Class::LeavesVm, format!("a download into {name}"));
    }
    let mut risk = Risk::of(Class::StateChange, format!("{name} with a script"));
    if !command.input.is_empty() {
        risk.raise(of_script(&command.input, depth + 1));
    }
    risk
}

/// The command without assignments and what only starts another program; whether one of these gave it more rights.
pub(super) fn unwrapped(words: &[String]) -> (&[String], bool) {
    let (mut rest, mut rights) = (words, false);
    loop {
        let Some(first) = rest.first() else { return (rest, rights) };
        let is_assignment = first.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit())
        });
        if is_assignment {
            rest = &rest[1..];
            continue;
        }
        let name = first.rsplit('/').next().unwrap_or_default();
        let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.name == name) else { return (rest, rights) };
        rights |= wrapper.rights;
        rest = &rest[1..];
        while let Some(option) = rest.first().filter(|word| word.starts_with('-')) {
            let takes = wrapper.valued.contains(&option.as_str());
            rest = rest.get(1 + usize::from(takes)..).unwrap_or_default();
        }
        rest = rest.get(wrapper.operands..).unwrap_or_default();
    }
}

fn by_rules(name: &str, arguments: &[String]) -> Risk {
    if arguments.len() == 1 && matches!(arguments[0].as_str(), "--version" | "--help" | "-V") {
        return Risk::of(Class::Read, name);
    }
    match COMMANDS.iter().find(|rule| matches(rule, name, arguments)) {
        Some(rule) => Risk::of(rule.class, [&[name], rule.sub, &rule.with[..rule.with.len().min(1)]].concat().join(" ").replace('=', "")),
        None => Risk::of(Class::StateChange, "a program that is not known"),
    }
}

/// Whether a rule is of this command.
pub(super) fn matches(rule: &Rule, name: &str, arguments: &[String]) -> bool {
    let named = rule.programs.iter().any(|program| match program.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => *program == name,
    });
    named
        && subcommand(name, arguments).take(rule.sub.len()).eq(rule.sub.iter().copied())
        && (rule.with.is_empty() || rule.with.iter().any(|with| arguments.iter().any(|argument| is_given(with, argument))))
}

/// The arguments that are no options, without the values of the options before a subcommand.
fn subcommand<'a>(name: &str, arguments: &'a [String]) -> impl Iterator<Item = &'a str> {
    let valued: &[&str] = match name {
        "git" => &["-C", "-c", "--git-dir", "--work-tree"],
        "npm" | "pnpm" | "yarn" => &["--prefix", "-C", "--dir"],
        "make" => &["-C", "-f", "-j"],
        _ => &[],
    };
    let mut skip = false;
    arguments.iter().map(String::as_str).filter(move |argument| {
        let value = std::mem::replace(&mut skip, valued.contains(argument));
        !(value || argument.starts_with('-') || argument.starts_with('+'))
    })
}

/// Whether an argument is what a rule asks for: `=x` is exactly `x`; `--x` may have a value; `-x` may stand among others.
fn is_given(with: &str, argument: &str) -> bool {
    if let Some(exact) = with.strip_prefix('=') {
        return argument == exact;
    }
    if with.starts_with("--") {
        return argument.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    }
    match with.strip_prefix('-') {
        Some(letter) => argument.starts_with('-') && !argument.starts_with("--") && argument.contains(letter),
        None => argument == with,
    }
}

fn is_destructive_sql(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    text.split(';').any(|statement| {
        let mut words = statement.split_whitespace();
        match (words.next(), words.next()) {
            (Some("DROP" | "TRUNCATE"), Some(_)) => true,
            (Some("DELETE"), Some("FROM")) => !statement.contains(" WHERE "),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests;
