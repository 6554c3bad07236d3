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
        let mut filled = 0;
        while filled < bytes.len() {
            match tokio::time::timeout(SILENCE, self.from.read(&mut bytes[filled..])).await {
                Ok(Ok(count @ 1..)) => filled += count,
                Ok(_) => return Err("it ends before its end: it is truncated, or its sender went away; export it again".into()),
                Err(_) => return Err(format!("nothing of it came for {} s", SILENCE.as_secs())),
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::archive::header;
    use tokio::io::AsyncWriteExt;

    /// A file of one entry of 1 MiB, whose sender sends `piece` bytes at a time, pauses after each, and sends nothing after `most`.
    async fn entry(piece: usize, pause: Duration, most: usize) -> Result<Vec<u8>, String> {
        const SIZE: usize = 1 << 20;
        let (mut sender, receiver) = tokio::io::duplex(4096);
        let sending = tokio::spawn(async move {
            let mut file = header("disk", SIZE as u64).to_vec();
            file.resize(file.len() + SIZE, 7);
            for piece in file[..most.min(file.len())].chunks(piece) {
                sender.write_all(piece).await.unwrap();
                tokio::time::sleep(pause).await;
            }
            std::future::pending::<()>().await;
        });
        let entry = Reader::new(receiver).entry("disk", SIZE as u64).await;
        sending.abort();
        entry
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_is_borne_and_a_silent_one_is_not() {
        // An hour and a half for one entry.
        let slow = entry(16 << 10, Duration::from_secs(80), usize::MAX).await.unwrap();
        assert_eq!((slow.len(), slow.iter().all(|byte| *byte == 7)), (1 << 20, true));
        for most in [0, 100, 600, 1 << 19] {
            let silent = entry(16 << 10, Duration::ZERO, most).await;
            assert_eq!(silent, Err("nothing of it came for 120 s".into()), "{most}");
        }
    }
}
