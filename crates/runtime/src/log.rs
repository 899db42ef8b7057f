//! The log: lines of plain text or JSON, written by a thread of their own.
//!
//! A line costs its formatting and a copy into a buffer; a thread writes what has gathered, a few times per second at
//! most a hundred. When that thread cannot keep up the buffer fills, and lines are dropped and counted: a log that is
//! not read must never stop the traffic it reports.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use ::http::{Method, StatusCode};
use parking_lot::Mutex;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, fmt, reload};

use crate::http::{Request, Response, Router, text};
pub use filter::{Directives, InvalidDirectives};
pub use format::Format;
use sink::Sink;

mod filter;
mod format;
mod sink;

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Default plain.
    pub format: Format,
    /// What is logged unless changed later. Default `info`.
    pub directives: Directives,
    /// Where to. Default standard output.
    pub output: Output,
    /// Most bytes that wait to be written. Default 4 MiB.
    pub buffer: usize,
    /// Left out at the start of a target: a binary gives its own crate's, such as `tulle_ztunnel::`. Default none.
    pub hidden_prefix: &'static str,
}

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: Format::Plain,
            directives: Directives::default(),
            output: Output::Stdout,
            buffer: 4 * 1024 * 1024,
            hidden_prefix: "",
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The output cannot be used, or the thread not started.
    #[error("opening the log failed")]
    Output(#[from] io::Error),
    /// The process has a log already.
    #[error("the log is set up already")]
    Already,
}

/// Logs to the end of the process from here on. What a panic would lose is written first.
///
/// # Errors
/// If the output is closed, or this was called before.
pub fn init(config: LogConfig) -> Result<LogHandle, InitError> {
    let output = match config.output {
        Output::Stdout => io::stdout().as_fd().try_clone_to_owned()?,
        Output::Stderr => io::stderr().as_fd().try_clone_to_owned()?,
    };
    let (subscriber, handle) = build(config, std::fs::File::from(output))?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| InitError::Already)?;
    flush_on_panic(Arc::clone(&handle.0.sink));
    Ok(handle)
}

/// The subscriber that [`init`] installs, writing to `output`.
///
/// # Errors
/// If the thread that writes cannot be started.
pub fn build(
    config: LogConfig,
    output: impl io::Write + Send + 'static,
) -> io::Result<(
    impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    LogHandle,
)> {
    let sink = Sink::start(output, config.format, config.buffer)?;
    let (filter, reload) = reload::Layer::new(config.directives.targets());
    let format = format::LineFormat::new(config.format, config.hidden_prefix);
    let lines = fmt::layer()
        .fmt_fields(format)
        .event_format(format)
        .with_ansi(false)
        .with_writer(Arc::clone(&sink));
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    let handle = LogHandle(Arc::new(Shared {
        reload,
        current: Mutex::new(config.directives.clone()),
        initial: config.directives,
        sink,
    }));
    Ok((subscriber, handle))
}

/// Changes the log while it runs. Clones are the same log; the last one dropped writes out what is buffered.
#[derive(Debug, Clone)]
pub struct LogHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    reload: reload::Handle<tracing_subscriber::filter::Targets, Registry>,
    current: Mutex<Directives>,
    initial: Directives,
    sink: Arc<Sink>,
}

impl LogHandle {
    /// What is logged now, in the form that [`LogHandle::set`] takes.
    pub fn current(&self) -> String {
        self.0.current.lock().to_string()
    }

    /// Adds directives such as `debug` or `access=debug,tulle_xds=trace` to those in force.
    ///
    /// # Errors
    /// If they do not parse; nothing is changed then.
    pub fn set(&self, directives: &str) -> Result<(), InvalidDirectives> {
        let mut current = self.0.current.lock();
        let next = current.with(&directives.parse()?)?;
        self.apply(&mut current, next);
        Ok(())
    }

    /// Returns to what the log was started with.
    pub fn reset(&self) {
        let mut current = self.0.current.lock();
        self.apply(&mut current, self.0.initial.clone());
    }

    fn apply(&self, current: &mut Directives, next: Directives) {
        // Fails only if the subscriber is gone, and then there is nothing left to change.
        let _ = self.0.reload.reload(next.targets());
        *current = next;
    }

    /// Writes out what is buffered, giving up after a second if the output takes nothing.
    pub fn flush(&self) {
        self.0.sink.flush();
    }

    /// Writes a line as it is, with its end: of a form of its own, between those of events. It is dropped where others would be.
    pub fn write_line(&self, line: &str) {
        self.0.sink.append(line.as_bytes());
    }

    /// How many lines were dropped, ever, because the output was too slow or failed.
    pub fn dropped(&self) -> u64 {
        self.0.sink.dropped_total()
    }

    /// `POST /logging`: shows what is logged, or changes it with `?level=…` and `?reset`.
    pub fn routes(&self) -> Router {
        let log = self.clone();
        Router::new("log").route(
            Method::POST,
            "/logging",
            "what is logged; ?level=debug or ?level=target=debug,… adds, ?reset starts over",
            move |request| std::future::ready(log.respond(&request)),
        )
    }

    fn respond(&self, request: &Request) -> Response {
        if request.query.contains_key("reset") {
            self.reset();
        }
        if let Some(level) = request.query.get("level")
            && let Err(invalid) = self.set(level)
        {
            return text(StatusCode::BAD_REQUEST, format!("{invalid}\n"));
        }
        text(
            StatusCode::OK,
            format!("current log level is {}\n", self.current()),
        )
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.sink.flush();
    }
}

fn flush_on_panic(sink: Arc<Sink>) {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        sink.flush();
        next(panic);
    }));
}

#[cfg(test)]
mod tests;
