//! The least that standing between clients and a server can cost here: whatever comes goes to the other side, and nobody looks at it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

/// As much as there is in one read.
const READ_BYTES: usize = 16 * 1024;
const MAX_EVENTS: usize = 1024;
/// What the listener is called among the connections.
const LISTENER: u64 = u64::MAX;

/// A connection to `back_end` for every client, on one thread, for ever. Prints its address first.
pub(crate) fn serve(back_end: SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN).unwrap();
    // A client has an even number, its server the next one.
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
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
                    let number = epoll::EventData::new_u64(streams.len() as u64);
                    epoll::add(&epoll, &stream, number, epoll::EventFlags::IN | epoll::EventFlags::ET).unwrap();
                    streams.push(Some(stream));
                }
                continue;
            }
            let from = usize::try_from(event.data.u64()).unwrap();
            if !pass_on(&streams, from, &mut buffer) {
                streams[from] = None;
                streams[from ^ 1] = None;
            }
        }
    }
}

/// All that has come; whether more can come.
fn pass_on(streams: &[Option<TcpStream>], from: usize, buffer: &mut [u8]) -> bool {
    let (Some(mut source), Some(mut sink)) = (streams[from].as_ref(), streams[from ^ 1].as_ref()) else {
        return false;
    };
    loop {
        match source.read(buffer) {
            Ok(0) => return false,
            // What is measured through it is so little that the system takes it.
            Ok(bytes) if sink.write_all(&buffer[..bytes]).is_err() => return false,
            Ok(bytes) if bytes < buffer.len() => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
