//! Reads a file entry by entry, as it comes.

use crate::remote::archive::{BLOCK, padding, read_header};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long nothing may come.
const SILENCE: Duration = Duration::from_mins(2);

pub(super) struct Reader<R> {
    from: R,
    next: Next,
}

/// What was read ahead.
enum Next {
    Unread,
    Entry(String, u64),
    End,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, next: Next::Unread }
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        match tokio::time::timeout(SILENCE, self.from.read_exact(bytes)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("it ends before its end: it is truncated, or its sender went away; export it again".into()),
            Err(_) => Err(format!("nothing of it came for {} s", SILENCE.as_secs())),
        }
    }

    /// Name and size of the next entry; `None` at the end.
    pub(super) async fn peek(&mut self) -> Result<Option<(String, u64)>, String> {
        if matches!(self.next, Next::Unread) {
            let mut block = [0; BLOCK];
            self.fill(&mut block).await?;
            self.next = read_header(&block)?.map_or(Next::End, |(name, size)| Next::Entry(name, size));
        }
        Ok(match &self.next {
            Next::Entry(name, size) => Some((name.clone(), *size)),
            Next::Unread | Next::End => None,
        })
    }

    /// The next entry, which must have this name, and at most so many bytes.
    pub(super) async fn entry(&mut self, name: &str, most: u64) -> Result<Vec<u8>, String> {
        let (found, size) = self.peek().await?.ok_or_else(|| format!("it ends before {name}"))?;
        self.next = Next::Unread;
        if found != name {
            return Err(format!("it has {} where {name} should be", found.escape_debug()));
        }
        if size > most {
            return Err(format!("{name} has {size} bytes; it may have {most}"));
        }
        let size_here = usize::try_from(size).map_err(|error| error.to_string())?;
        let mut bytes = vec![0; size_here + padding(size)];
        self.fill(&mut bytes).await?;
        bytes.truncate(size_here);
        Ok(bytes)
    }
}
