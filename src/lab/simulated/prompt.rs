//! What a launch is given: `export K='v'` lines, and in the prompt one line `#sim key=value …` that directs the model agent.

use std::{collections::BTreeMap, time::Duration};

/// How the model agent behaves; by default it works until the model ends its turn, then exits with 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    /// `turns=N`: at most so many answers are acted on.
    pub(super) turns: Option<u32>,
    /// `exit=N`
    pub(super) exit: i32,
    /// `hang=true`: after its turns it neither goes on nor ends.
    pub(super) hang: bool,
    /// `idle=true`: runs, but makes no calls.
    pub(super) idle: bool,
    /// `pace=MS`: how long it works between an answer and the next request.
    pub(super) pace: Duration,
}

impl Directives {
    pub(super) fn read(prompt: &str) -> Self {
        let mut directives = Self::default();
        let line = prompt.lines().find_map(|line| line.trim().strip_prefix("#sim ")).unwrap_or_default();
        for (key, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            match key {
                "turns" => directives.turns = value.parse().ok(),
                "exit" => directives.exit = value.parse().unwrap_or_default(),
                "hang" => directives.hang = value == "true",
                "idle" => directives.idle = value == "true",
                "pace" => directives.pace = Duration::from_millis(value.parse().unwrap_or_default()),
                _ => {}
            }
        }
        directives
    }
}

/// Reads `export K=V` lines as a shell does: quoted text may hold newlines, and `'\''` is a quote.
pub(super) fn exports(text: &str) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    let mut rest = text;
    while let Some(at) = rest.find("export ") {
        rest = &rest[at + "export ".len()..];
        let Some((name, value)) = rest.split_once('=') else { break };
        let (value, after) = word(value);
        environment.insert(name.trim().to_owned(), value);
        rest = after;
    }
    environment
}

/// One word of a shell, and what follows it.
fn word(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut quoted = false;
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\'' => quoted = !quoted,
            '\\' if !quoted => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\n' | ' ' | ';' if !quoted => return (value, &text[at..]),
            c => value.push(c),
        }
    }
    (value, "")
}
