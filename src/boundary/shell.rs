//! Reads a shell command line as far as judging it needs: the simple commands in it, whatever they are joined by and however
//! deep they stand in substitutions and subshells. It expands nothing.

use std::{iter::Peekable, str::Chars};

/// Substitutions within substitutions that are read; of what lies deeper nothing is known.
const DEPTH: usize = 64;

/// A command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// In the order in which they end.
    pub(super) commands: Vec<Command>,
    /// There is something in it that was not understood.
    pub(super) unclear: bool,
}

/// One simple command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// Without quotes; what a substitution stands for is left out.
    pub(super) words: Vec<String>,
    /// The files that it truncates, then those that it adds to.
    pub(super) writes: Vec<String>,
    pub(super) appends: Vec<String>,
    /// What a here-document or a here-string gives it.
    pub(super) input: String,
    /// How it is joined to what follows.
    pub(super) then: Then,
}

/// How a command is joined to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Then {
    /// The line ends.
    #[default]
    End,
    And,
    Or,
    Pipe,
    /// `;`, a new line, `&`, the end of a subshell.
    Next,
}

/// Words that only shape what follows them.
const RESERVED: [&str; 14] = ["if", "then", "else", "elif", "fi", "while", "until", "do", "done", "{", "}", "!", "time", "esac"];

/// Reads a line, or several.
pub(super) fn read(text: &str) -> Script {
    let mut reader = Reader { rest: text.chars().peekable(), script: Script::default(), documents: Vec::new(), depth: 0 };
    reader.list(None);
    reader.script.unclear |= !reader.documents.is_empty();
    reader.script
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    script: Script,
    /// Here-documents that begin on the next line.
    documents: Vec<Document>,
    depth: usize,
}

struct Document {
    delimiter: String,
    /// Of the command that it is for, which may not have ended yet.
    command: usize,
    indented: bool,
    literal: bool,
}

/// A command while it is read.
#[derive(Default)]
struct Draft {
    command: Command,
    word: Option<String>,
    /// What the word that is being read is for.
    target: Target,
    quoted: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Target {
    #[default]
    Word,
    Write,
    Append,
    Read,
    String,
    Document {
        indented: bool,
    },
}

impl Reader<'_> {
    /// Reads commands until `end`, or until nothing is left.
    fn list(&mut self, end: Option<char>) {
        let mut draft = Draft::default();
        while let Some(next) = self.rest.next() {
            if Some(next) == end {
                return self.finish(&mut draft, Then::Next);
            }
            match next {
                ' ' | '\t' => self.word_ends(&mut draft),
                '\\' => match self.rest.next() {
                    Some('\n') | None => {}
                    Some(other) => draft.push(other),
                },
                '\'' => self.single_quoted(&mut draft),
                '"' => self.double_quoted(&mut draft),
                '$' => self.dollar(&mut draft),
                '`' => self.nested(Some('`')),
                '#' if draft.word.is_none() => while self.rest.next_if(|c| *c != '\n').is_some() {},
                '\n' => {
                    self.finish(&mut draft, Then::Next);
                    self.documents();
                }
                // `)` is the pattern of a `case`, or one too many.
                ';' | ')' => self.finish(&mut draft, Then::Next),
                '&' if self.rest.peek() == Some(&'>') => {}
                '&' => {
                    let then = if self.rest.next_if_eq(&'&').is_some() { Then::And } else { Then::Next };
                    self.finish(&mut draft, then);
                }
                '|' => {
                    let then = if self.rest.next_if_eq(&'|').is_some() { Then::Or } else { Then::Pipe };
                    self.rest.next_if_eq(&'&');
                    self.finish(&mut draft, then);
                }
                '(' => {
                    self.finish(&mut draft, Then::Next);
                    self.nested(Some(')'));
                }
                '<' | '>' => self.redirection(next, &mut draft),
                other => draft.push(other),
            }
        }
        self.script.unclear |= end.is_some();
        self.finish(&mut draft, Then::End);
    }

    fn nested(&mut self, end: Option<char>) {
        self.depth += 1;
        if self.depth > DEPTH {
            self.script.unclear = true;
            self.rest = "".chars().peekable();
        } else {
            self.list(end);
        }
        self.depth -= 1;
    }

    fn single_quoted(&mut self, draft: &mut Draft) {
        draft.open_quote();
        loop {
            match self.rest.next() {
                Some('\'') => return,
                Some(other) => draft.push(other),
                None => return self.script.unclear = true,
            }
        }
    }

    fn double_quoted(&mut self, draft: &mut Draft) {
        draft.open_quote();
        loop {
            match self.rest.next() {
                Some('"') => return,
                Some('\\') => {
                    if let Some(next) = self.rest.next() {
                        if !matches!(next, '"' | '\\' | '$' | '`' | '\n') {
                            draft.push('\\');
                        }
                        draft.push(next);
                    }
                }
                Some('$') => self.dollar(draft),
                Some('`') => self.nested(Some('`')),
                Some(other) => draft.push(other),
                None => return self.script.unclear = true,
            }
        }
    }

    fn dollar(&mut self, draft: &mut Draft) {
        if self.rest.next_if_eq(&'(').is_none() {
            return draft.push('$');
        }
        if self.rest.next_if_eq(&'(').is_none() {
            // What it says is not known, but there is a word.
            draft.word.get_or_insert_default();
            return self.nested(Some(')'));
        }
        // Arithmetic.
        let mut open = 2;
        while open > 0 {
            match self.rest.next() {
                Some('(') => open += 1,
                Some(')') => open -= 1,
                Some('`' | '$') => self.script.unclear = true,
                Some(_) => {}
                None => return self.script.unclear = true,
            }
        }
        draft.word.get_or_insert_default();
    }

    fn redirection(&mut self, which: char, draft: &mut Draft) {
        // The number of what is redirected is no word.
        if draft.word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
            draft.word = None;
        }
        self.word_ends(draft);
        if self.rest.next_if_eq(&'(').is_some() {
            return self.nested(Some(')'));
        }
        draft.target = if which == '>' {
            let append = self.rest.next_if_eq(&'>').is_some();
            self.rest.next_if_eq(&'|');
            if self.rest.next_if_eq(&'&').is_some() {
                Target::Read
            } else if append {
                Target::Append
            } else {
                Target::Write
            }
        } else if self.rest.next_if_eq(&'<').is_none() {
            self.rest.next_if_eq(&'&');
            Target::Read
        } else if self.rest.next_if_eq(&'<').is_some() {
            Target::String
        } else {
            Target::Document { indented: self.rest.next_if_eq(&'-').is_some() }
        };
        while self.rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
    }

    fn word_ends(&mut self, draft: &mut Draft) {
        let (target, quoted) = (std::mem::take(&mut draft.target), std::mem::take(&mut draft.quoted));
        let Some(word) = draft.word.take() else {
            draft.target = target;
            return;
        };
        match target {
            Target::Word if draft.command.words.is_empty() && !quoted && RESERVED.contains(&word.as_str()) => {}
            Target::Word => draft.command.words.push(word),
            Target::Write => draft.command.writes.push(word),
            Target::Append => draft.command.appends.push(word),
            Target::Read => {}
            Target::String => draft.command.input = word,
            Target::Document { indented } => {
                let command = self.script.commands.len();
                self.documents.push(Document { delimiter: word, command, indented, literal: quoted });
            }
        }
    }

    fn finish(&mut self, draft: &mut Draft, then: Then) {
        self.word_ends(draft);
        let mut command = std::mem::take(draft).command;
        if matches!(command.words.first().map(String::as_str), Some("for" | "case" | "select" | "function")) {
            command.words.clear();
        }
        if command == Command::default() {
            // `(a; b) | c`: what is joined is the last one inside.
            if let Some(last) = self.script.commands.last_mut().filter(|last| last.then == Then::Next && then != Then::End) {
                last.then = then;
            }
            return;
        }
        self.script.commands.push(Command { then, ..command });
    }

    /// Reads the here-documents that were announced on the line that has just ended.
    fn documents(&mut self) {
        for document in std::mem::take(&mut self.documents) {
            let mut body = String::new();
            loop {
                let mut line = String::new();
                while let Some(c) = self.rest.next_if(|c| *c != '\n') {
                    line.push(c);
                }
                let ended = self.rest.next().is_none();
                let shown = if document.indented { line.trim_start_matches('\t') } else { &line };
                if shown == document.delimiter {
                    break;
                }
                if ended {
                    self.script.unclear = true;
                    break;
                }
                body += shown;
                body.push('\n');
            }
            self.script.unclear |= !document.literal && (body.contains("$(") || body.contains('`'));
            if let Some(command) = self.script.commands.get_mut(document.command) {
                command.input = body;
            }
        }
    }
}

impl Draft {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn open_quote(&mut self) {
        self.word.get_or_insert_default();
        self.quoted = true;
    }
}
