//! The crate's log lines, as a test sees them.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex},
};

use tracing::{Dispatch, subscriber::DefaultGuard};
use tracing_subscriber::fmt::MakeWriter;

/// What was logged on this thread since `capture`.
pub struct Logs {
    written: Written,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// Listens from now on, until dropped. Tests run on one thread, so they hear only themselves.
    pub fn capture() -> Self {
        Self::capture_from(tracing::Level::INFO)
    }

    /// As `capture`, with every line of every crate.
    pub fn capture_all() -> Self {
        Self::capture_from(tracing::Level::TRACE)
    }

    fn capture_from(level: tracing::Level) -> Self {
        let written = Written::default();
        // While only one subscriber exists, a thread without one can switch a line off for all.
        static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));
        LazyLock::force(&ANOTHER);
        let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(level).with_writer(written.clone());
        Self { written, _guard: tracing::subscriber::set_default(lines.finish()) }
    }

    /// The lines that hold `part`.
    pub fn lines(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.written.0.lock().unwrap().clone()).expect("text");
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
