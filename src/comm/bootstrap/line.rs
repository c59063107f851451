//! One socket with what waits to be sent on it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use crate::system::fork::Shed;

/// A connection that never blocks.
#[derive(Debug)]
pub(super) struct Line {
    /// Of the process alone: its end is the end of the connection.
    _shed: Shed,
    stream: TcpStream,
    queue: VecDeque<Arc<[u8]>>,
    /// How many bytes of the first frame of the queue are sent.
    sent: usize,
}

/// What a look at a line gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The other side closed in good order.
    End,
}

impl Line {
    /// Takes a socket that does not block.
    pub(super) fn new(stream: TcpStream) -> Line {
        // Every frame is one that somebody waits for. Without this it is slower and still right.
        let _ = stream.set_nodelay(true);
        Line { _shed: Shed::new(&stream), stream, queue: VecDeque::new(), sent: 0 }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn enqueue(&mut self, frame: Arc<[u8]>) {
        self.queue.push_back(frame);
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends what the system takes now.
    pub(super) fn flush(&mut self) -> Result<()> {
        while let Some(frame) = self.queue.front() {
            match self.stream.write(&frame[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if self.sent == frame.len() {
                self.queue.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }

    /// Reads what is there, up to the size of `scratch`.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> Result<Incoming> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Ok(Incoming::End),
                Ok(count) => return Ok(Incoming::Bytes(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Incoming::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Says that nothing more will be sent; what was sent still arrives.
    pub(super) fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection even if a forked child still has a copy of the socket.
    pub(super) fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
