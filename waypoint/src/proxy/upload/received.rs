//! How much has come of a body.

use std::cell::{Cell, RefCell};

/// Bytes of a request's body, and messages if it is of gRPC.
#[derive(Debug, Default)]
pub(in super::super) struct Received {
    bytes: Cell<u64>,
    messages: Option<RefCell<Messages>>,
}

impl Received {
    pub(in super::super) fn new(is_grpc: bool) -> Self {
        Self {
            bytes: Cell::default(),
            messages: is_grpc.then(RefCell::default),
        }
    }

    /// Some more of it.
    pub(in super::super) fn add(&self, data: &[u8]) {
        self.add_bytes(data.len() as u64);
        if let Some(messages) = &self.messages {
            messages.borrow_mut().see(data);
        }
    }

    /// Some more bytes that are no body of HTTP any more.
    pub(in super::super) fn add_bytes(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    pub(in super::super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub(in super::super) fn messages(&self) -> u64 {
        let messages = self.messages.as_ref();
        messages.map_or(0, |messages| messages.borrow().count())
    }
}

/// Counts messages of gRPC: each has a byte of flags, four of its length, and so many more.
#[derive(Debug, Default)]
pub(in super::super) struct Messages {
    begun: u64,
    /// Bytes of the head of a message that have come.
    head: u8,
    length: u32,
    /// Bytes of a message that are still to come.
    left: u32,
}

impl Messages {
    /// Some more of the body.
    pub(in super::super) fn see(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.left > 0 {
                let skipped = data.len().min(self.left as usize);
                self.left -= u32::try_from(skipped).unwrap_or(self.left);
                data = data.get(skipped..).unwrap_or_default();
                continue;
            }
            data = rest;
            match self.head {
                0 => self.begun += 1,
                _ => self.length = self.length << 8 | u32::from(*first),
            }
            self.head += 1;
            if self.head == HEAD {
                self.left = std::mem::take(&mut self.length);
                self.head = 0;
            }
        }
    }

    /// Those of which anything has come.
    pub(in super::super) fn count(&self) -> u64 {
        self.begun
    }
}

const HEAD: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_come() {
        let body = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\0\x01d";
        for size in 1..=body.len() {
            let mut messages = Messages::default();
            body.chunks(size).for_each(|part| messages.see(part));
            assert_eq!(messages.count(), 3, "in pieces of {size}");
        }
        let mut cut = Messages::default();
        cut.see(&body[..9]);
        assert_eq!(cut.count(), 2);
        cut.see(b"");
        assert_eq!(cut.count(), 2);
    }

    #[test]
    fn bytes_are_counted_and_messages_of_grpc_alone() {
        let received = Received::new(false);
        received.add(b"\0\0\0\0\x01a");
        received.add_bytes(4);
        assert_eq!((received.bytes(), received.messages()), (10, 0));
    }
}
