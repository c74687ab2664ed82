//! The crate's log lines, as a test sees them.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex},
};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

/// What was logged on this thread since `capture`.
pub struct Logs {
    written: Written,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// Listens from now on, until dropped. Tests run on one thread, so each captures only its own lines.
    pub fn capture() -> Self {
        Self::capture_from(tracing::Level::INFO)
    }

    /// As `capture`, with every line of every crate.
    pub fn capture_all() -> Self {
        Self::capture_from(tracing::Level::TRACE)
    }

    fn capture_from(level: tracing::Level) -> Self {
        let written = Written::default();
        another();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_max_level(level).with_writer(written.clone());
        Self { written, _guard: tracing::subscriber::set_default(lines.finish()) }
    }

    /// The lines that hold `part`.
    pub fn lines(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.written.0.lock().unwrap().clone()).expect("text");
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

/// While only one subscriber exists, a thread without one can switch a line off for all.
fn another() {
    static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));
    LazyLock::force(&ANOTHER);
}

/// An event, or a span that began, with its own fields: not those of the spans around it.
#[derive(Clone, Debug)]
pub struct Record {
    pub target: String,
    pub level: Level,
    /// Of an event: the names of the spans it stands in, the outermost first.
    pub spans: Vec<&'static str>,
    pub fields: BTreeMap<&'static str, String>,
}

impl Record {
    fn of(metadata: &Metadata<'_>) -> Self {
        let target = metadata.target().to_owned();
        Self { target, level: *metadata.level(), spans: Vec::new(), fields: BTreeMap::new() }
    }

    /// A field, which it must have.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("{name} of {self:?}"))
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// The records of this thread since `listen`, each with its own fields.
pub struct Records {
    received: Received,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<Record>>>);

impl Records {
    /// Listens from now on, until dropped, to what this filter lets through: `trace`, for example.
    pub fn listen(filter: &str) -> Self {
        another();
        let received = Received::default();
        let layer = received.clone().with_filter(EnvFilter::new(filter));
        Self { received, _guard: tracing::subscriber::set_default(tracing_subscriber::registry().with(layer)) }
    }

    /// Everything since the last time this was asked.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut self.received.0.lock().unwrap())
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Received {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        let mut record = Record::of(attributes.metadata());
        attributes.record(&mut record);
        self.0.lock().unwrap().push(record);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut record = Record::of(span.metadata());
        values.record(&mut record);
        self.0.lock().unwrap().push(record);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut record = Record::of(event.metadata());
        record.spans = context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
            .map(|span| span.name())
            .collect();
        event.record(&mut record);
        self.0.lock().unwrap().push(record);
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
