use super::*;
use std::sync::mpsc;

/// An output that hands over each write and, if gated, waits to be let go before it.
struct Output {
    writes: mpsc::Sender<Vec<u8>>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(gate) = &self.gate {
            gate.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        self.writes
            .send(bytes.to_vec())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(capacity: usize) -> (Arc<Sink>, mpsc::Receiver<Vec<u8>>) {
    let (writes, written) = mpsc::channel();
    let output = Output { writes, gate: None };
    (
        Sink::start(output, Format::Plain, capacity).unwrap(),
        written,
    )
}

fn gated(capacity: usize) -> (Arc<Sink>, mpsc::Receiver<Vec<u8>>, mpsc::Sender<()>) {
    let (writes, written) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let output = Output {
        writes,
        gate: Some(gate),
    };
    let sink = Sink::start(output, Format::Plain, capacity).unwrap();
    (sink, written, open)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn lines_are_written_in_order_and_in_batches() {
    let (sink, written) = open(1 << 20);
    let lines: Vec<_> = (0..1000).map(|i| format!("line {i}\n")).collect();
    for line in &lines {
        sink.append(line.as_bytes());
    }
    sink.flush();
    let writes: Vec<_> = written.try_iter().collect();
    assert_eq!(text(writes.concat()), lines.concat());
    assert!(writes.len() < 100, "{} writes", writes.len());
}

#[test]
fn line_is_written_without_anybody_asking() {
    let (sink, written) = open(1 << 20);
    sink.append(b"one\n");
    assert_eq!(text(written.recv().unwrap()), "one\n");
    sink.append(b"two\n");
    assert_eq!(text(written.recv().unwrap()), "two\n");
}

#[test]
fn flush_returns_once_everything_before_it_is_written() {
    let (sink, written) = open(1 << 20);
    for _ in 0..100 {
        sink.append(b"line\n");
        sink.flush();
        assert_eq!(text(written.try_recv().unwrap()), "line\n");
    }
    sink.flush(); // Nothing to write: returns all the same.
}

#[test]
fn full_buffer_drops_lines_and_says_so_later() {
    let (sink, written, gate) = gated(10);
    sink.append(b"first\n");
    // The thread has taken the first line once the buffer has room for as much again.
    wait_until(|| sink.state.lock().lines.is_empty());
    sink.append(b"second\n");
    sink.append(b"third\n");
    sink.append(b"fourth\n");
    sink.append(b"5\n");
    assert_eq!(sink.dropped_total(), 2);
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    sink.flush();
    assert_eq!(text(written.recv().unwrap()), "first\n");
    let second = text(written.recv().unwrap());
    let dropped = second.strip_prefix("second\n5\n").unwrap();
    assert!(dropped.ends_with("\twarn\tlog\tlog lines dropped\tcount=2\n"));

    gate.send(()).unwrap();
    sink.append(b"later\n");
    sink.flush();
    assert_eq!(text(written.recv().unwrap()), "later\n", "said once");
}

#[test]
fn flush_gives_up_on_an_output_that_takes_nothing() {
    let (sink, written, gate) = gated(100);
    sink.append(b"stuck\n");
    sink.flush();
    assert!(written.try_recv().is_err());
    gate.send(()).unwrap();
    assert_eq!(text(written.recv().unwrap()), "stuck\n");
}

#[test]
fn lines_that_could_not_be_written_count_as_dropped() {
    let (sink, written) = open(100);
    drop(written);
    sink.append(b"one\n");
    sink.append(b"two\n");
    sink.flush();
    assert_eq!(sink.dropped_total(), 2);
}

#[test]
fn burst_does_not_keep_its_memory() {
    let (sink, written) = open(1 << 20);
    for _ in 0..20 {
        sink.append(&[b'x'; 50_000]);
    }
    sink.flush();
    for _ in 0..2 {
        sink.append(b"x\n");
        sink.flush();
    }
    drop(written);
    wait_until(|| sink.state.lock().lines.capacity() <= KEPT_CAPACITY);
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "condition not met");
        std::thread::yield_now();
    }
}
