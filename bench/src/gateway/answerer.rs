//! The floor for a gateway to packet nodes: a server that answers each request by itself, with one
//! read and one write. A gateway has to ask a node as well.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::http::usual_response;

/// Bytes of one read: clients send one short request at a time.
const READ_BYTES: usize = 16 * 1024;
const MAX_EVENTS: usize = 1024;
/// The number of the listener among those of the clients.
const LISTENER: u64 = u64::MAX;

/// Prints its address, and answers on one thread, for ever.
pub(crate) fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    let response = usual_response();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).unwrap();
    let mut clients: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(MAX_EVENTS);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None).unwrap();
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                let client = listener.accept().unwrap().0;
                client.set_nodelay(true).unwrap();
                client.set_nonblocking(true).unwrap();
                epoll::add(&epoll, &client, EventData::new_u64(clients.len() as u64), EventFlags::IN).unwrap();
                clients.push(Some(client));
                continue;
            }
            let number = usize::try_from(event.data.u64()).unwrap();
            let Some(client) = &mut clients[number] else { continue };
            let is_open = match client.read(&mut buffer) {
                Ok(0) => false,
                // A client sends a request when it has the response to the last one.
                Ok(bytes) => !buffer[..bytes].ends_with(b"\r\n\r\n") || client.write_all(response.as_bytes()).is_ok(),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !is_open {
                clients[number] = None;
            }
        }
    }
}
