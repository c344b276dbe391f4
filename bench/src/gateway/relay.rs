//! The floor for a proxy: a relay that passes bytes on to the other side without reading them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use socket2::SockRef;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;
/// Bytes that the system accepts for a side that does not read: as many as at the gateway.
const MAX_UNSENT_BYTES: u32 = 64 * 1024;
const MAX_EVENTS: usize = 1024;
/// The number of the listener among those of the connections.
const LISTENER: u64 = u64::MAX;

/// One side of a relayed connection.
struct RelaySide {
    stream: TcpStream,
    /// Bytes that it has not accepted yet. Until it does, nothing more is read from the other side.
    rest: Vec<u8>,
}

/// Prints its address, and then connects each client to `back_end`, on one thread, for ever.
pub(crate) fn serve(back_end: SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).unwrap();
    // A client's side has an even number, and its server's side the next one.
    let mut sides: Vec<Option<RelaySide>> = Vec::new();
    let mut events = Vec::with_capacity(MAX_EVENTS);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None).unwrap();
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                let client = listener.accept().unwrap().0;
                for stream in [client, TcpStream::connect(back_end).unwrap()] {
                    stream.set_nodelay(true).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES).unwrap();
                    let number = EventData::new_u64(sides.len() as u64);
                    let both = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                    epoll::add(&epoll, &stream, number, both).unwrap();
                    sides.push(Some(RelaySide { stream, rest: Vec::new() }));
                }
                continue;
            }
            let side = usize::try_from(event.data.u64()).unwrap();
            let pair = sides.get_disjoint_mut([side, side ^ 1]).unwrap();
            let [Some(this), Some(other)] = pair else { continue };
            // This side may have bytes to read, and may accept bytes that the other side has sent.
            let is_open =
                pass_on(this, other, &mut buffer) && (this.rest.is_empty() || pass_on(other, this, &mut buffer));
            if !is_open {
                sides[side] = None;
                sides[side ^ 1] = None;
            }
        }
    }
}

/// Passes on all bytes that have arrived, as far as `sink` accepts them. Returns false if nothing
/// more can come.
fn pass_on(source: &mut RelaySide, sink: &mut RelaySide, buffer: &mut [u8]) -> bool {
    loop {
        while !sink.rest.is_empty() {
            match sink.stream.write(&sink.rest) {
                Ok(bytes) => drop(sink.rest.drain(..bytes)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        // In most measurements the bytes are accepted at once.
        match source.stream.read(buffer) {
            Ok(0) => return false,
            Ok(bytes) => {
                let taken = match sink.stream.write(&buffer[..bytes]) {
                    Ok(taken) => taken,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(_) => return false,
                };
                sink.rest.extend_from_slice(&buffer[taken..bytes]);
                if bytes < buffer.len() && sink.rest.is_empty() {
                    return true;
                }
            }
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
