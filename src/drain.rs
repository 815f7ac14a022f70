//! The tasks of a node: spawned through one door, told to stop together, waited for, and cut off at a deadline.
//!
//! A task listens to [`Drain::stopping`] and ends in its own way; whoever has not ended at the deadline is dropped
//! where it waits. A task's error is logged here, once, so that no owner has to. A panic is printed by the
//! panic hook and ends that task alone.

use std::error::Error;
use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// A set of tasks that stop together. Clones spawn into the same set.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    tracker: TaskTracker,
    stopping: CancellationToken,
    cut: CancellationToken,
}

/// The tasks of a node's roles, in the order in which they stop.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// Connections and where they come from. They may end in their own time.
    pub flows: Drain,
    /// What carries them: ends when they have.
    pub links: Drain,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every task ended by itself.
    Clean,
    /// The deadline came first; so many tasks were dropped.
    Cut(usize),
}

/// How a task ends: with nothing to say, or with an error that is logged.
pub trait Outcome {
    /// Logs the error, if it is one.
    fn log(self, task: &'static str);
}

impl Outcome for () {
    fn log(self, _task: &'static str) {}
}

impl<E: Error> Outcome for Result<(), E> {
    fn log(self, task: &'static str) {
        if let Err(error) = self {
            tracing::error!(task, error = chain(&error), "a task failed");
        }
    }
}

impl Drain {
    /// Returns a set without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what is cancelled when the tasks are to stop.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Returns the number of tasks that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Returns whether every task has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Spawns a task in the current span. After a stop it is spawned all the same, and finds that it is to stop.
    pub fn spawn<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let cut = self.cut.clone();
        let run = async move {
            if let Some(outcome) = cut.run_until_cancelled(future).await {
                outcome.log(task);
            }
        };
        self.tracker.spawn(run.in_current_span());
    }

    /// Tells the tasks to stop, waits for them, and drops those that are left at the deadline.
    pub async fn stop(&self, deadline: Duration) -> Stopped {
        self.stopping.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            return Stopped::Clean;
        }
        let left = self.tracker.len();
        self.cut.cancel();
        self.tracker.wait().await;
        Stopped::Cut(left)
    }
}

/// Writes an error with its causes: `failed: because: because`.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[tokio::test]
    async fn tasks_that_heed_the_stop_end_cleanly() {
        let drain = Drain::new();
        for _ in 0..3 {
            let stopping = drain.stopping().clone();
            drain.spawn("waits", async move { stopping.cancelled().await });
        }
        assert_eq!(drain.len(), 3);
        assert_eq!(drain.stop(Duration::from_secs(60)).await, Stopped::Clean);
        assert!(drain.is_empty());
    }

    #[tokio::test]
    async fn tasks_that_do_not_are_dropped_at_the_deadline() {
        let drain = Drain::new();
        let held = Arc::new(());
        let inside = held.clone();
        drain.spawn("hangs", async move {
            std::future::pending::<()>().await;
            drop(inside);
        });
        assert_eq!(drain.stop(Duration::from_millis(10)).await, Stopped::Cut(1));
        assert_eq!(Arc::strong_count(&held), 1, "what the task held is free");
    }

    #[tokio::test]
    async fn a_failed_task_is_logged_once_with_its_causes() {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let drain = Drain::new();
        drain.spawn("store", async { Err::<(), _>(Failed { source: io::Error::other("disk on fire") }) });
        drain.spawn("fine", async { Ok::<(), io::Error>(()) });
        drain.stop(Duration::from_secs(60)).await;
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("task=\"store\"") && text.contains("write a block: disk on fire"), "{text}");
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_task_alone() {
        let drain = Drain::new();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        drain.spawn("panics", async { assert!(std::hint::black_box(false), "on purpose") });
        drain.spawn("goes on", async { sender.send(7).map_err(|_| io::Error::other("nobody listens")) });
        assert_eq!(receiver.await, Ok(7));
        assert_eq!(drain.stop(Duration::from_secs(60)).await, Stopped::Clean);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("write a block")]
    struct Failed {
        source: io::Error,
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Log {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }
}
