//! A stream that gives up on a peer who does not take what is written to it, be it by reading nothing or by
//! reading a byte now and then.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Said of a connection by whoever answers on it: its client is waited for however long it takes. For
/// answers of which little waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endless(Arc<AtomicBool>);

/// A stream whose peer has `limit` to take what is written before the next flush.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    endless: Endless,
    /// Runs while the peer is behind.
    overdue: Option<Pin<Box<Sleep>>>,
}

// === impl Endless ===

impl Endless {
    pub(crate) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_said(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Patient ===

impl<S> Patient<S> {
    pub(super) fn new(stream: S, limit: Duration, endless: Endless) -> Self {
        Self { stream, limit, endless, overdue: None }
    }

    /// The stream takes no more at present.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.endless.is_said() {
            return Poll::Pending;
        }
        let limit = self.limit;
        let overdue = self.overdue.get_or_insert_with(|| Box::pin(sleep(limit)));
        match overdue.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, buf) {
            Poll::Pending => self.wait(cx),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, bufs) {
            Poll::Pending => self.wait(cx),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.wait(cx),
            flushed => {
                self.overdue = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Endless, Patient};
    use std::io::ErrorKind;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, advance, timeout};

    const LIMIT: Duration = Duration::from_millis(200);
    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn who_reads_is_waited_for_and_who_does_not_or_barely_is_not() {
        // What is taken in time may follow each other for longer than the limit.
        let (ours, mut theirs) = duplex(16);
        let mut ours = Patient::new(ours, LIMIT, Endless::default());
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all.len())
        });
        let begin = Instant::now();
        let mut written = 0;
        while begin.elapsed() < 2 * LIMIT {
            ours.write_all(&[0; 64]).await.unwrap();
            ours.flush().await.unwrap();
            written += 64;
            advance(LIMIT / 10).await;
        }
        drop(ours);
        assert_eq!(reader.await.unwrap().unwrap(), written);

        let (ours, silent) = duplex(16);
        let mut ours = Patient::new(ours, LIMIT, Endless::default());
        let result = timeout(DEADLINE, ours.write_all(&[0; 64])).await.expect("it gives up");
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(silent);

        let (ours, mut slow) = duplex(16);
        let mut ours = Patient::new(ours, LIMIT, Endless::default());
        let reader = tokio::spawn(async move {
            let mut tick = tokio::time::interval(LIMIT / 10);
            let mut byte = [0];
            while slow.read(&mut byte).await.is_ok_and(|count| count > 0) {
                tick.tick().await;
            }
        });
        let result = timeout(DEADLINE, ours.write_all(&[0; 64 * 1024])).await.expect("it gives up");
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(ours);
        reader.await.unwrap();
    }
}
