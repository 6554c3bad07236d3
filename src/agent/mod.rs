//! One file per agent CLI: environment, start, resume, how it ends.
