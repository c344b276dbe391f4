//! Measures reading and writing packets, in ns for each packet and in MB/s: `cargo bench --profile
//! dist -p bench --bench codec`.
#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use protocol::{
    CallMeta, CallUrl, FrameDecoder, Key, ListUpdate, Packet, Registration, RegistrationLimits, Replica, Request,
    ResponsePayload, UnpackedBlocks, Version, check_depth, seal, write_legacy_list, write_request, write_response,
};

/// Rounds, whose median is printed.
const ROUNDS: usize = 9;

fn main() {
    let call = r#"{"uri":"/goods","method":"GET","key":123456,"params":{"id":42,"name":"widget","price":9.5,"tags":"a,b"},"$":{"d":5000}}"#;
    let korean = r#"{"uri":"/goods","method":"POST","params":{"key":7,"name":"가능한 물건 가득","category":"생활용품","description":"아주 좋은 물건입니다"}}"#;
    let registration = r#"{"uri":"/distributes","method":"POST","key":0,"params":{"port":9010,"name":"goods","urls":["POST/goods","GET/goods","DELETE/goods"]}}"#;
    let entry =
        r#"{"port":9010,"name":"goods","urls":["POST/goods","GET/goods","DELETE/goods"],"host":"::ffff:127.0.0.1"}"#;
    let params = r#"{"id":42,"name":"widget","price":9.5,"tags":"a,b"}"#;

    println!("{:34} {:>10} {:>10} {:>10}", "", "ns/packet", "MB/s", "bytes");
    for (name, packet) in [("call", call), ("call in Korean", korean), ("registration", registration)] {
        let stream: Vec<u8> = format!("{packet}¶").repeat(1000).into_bytes();
        measure(&format!("cut {name}"), 1000, packet.len(), || drain(&stream, |_| ()));
        measure(&format!("cut and read {name}"), 1000, packet.len(), || {
            drain(&stream, |frame| drop(black_box(Packet::parse(frame))));
        });
    }
    let stream: Vec<u8> = format!("{call}¶").repeat(1000).into_bytes();
    measure("cut and read as request", 1000, call.len(), || {
        drain(&stream, |frame| drop(black_box(Request::parse(frame))));
    });
    let packet = Packet::parse(registration.as_bytes()).expect("it is a packet");
    measure("registration to entry", 1, registration.len(), || {
        check_depth(registration.as_bytes(), 32).expect("it is shallow");
        let registration = Registration::parse(packet.params, &RegistrationLimits::default());
        black_box(registration.expect("it is one").entry("::ffff:127.0.0.1"));
    });

    let mut out = BytesMut::with_capacity(1 << 20);
    let meta = CallMeta { time_left: Some(Duration::from_secs(5)), ..CallMeta::default() };
    for to in [Version::V1, Version::V2] {
        measure(&format!("write a call, {to:?}"), 1, call.len(), || {
            out.clear();
            write_request(&mut out, to, CallUrl::new("GET", "/goods"), Some(123_456), params, &meta);
        });
        measure(&format!("write an answer, {to:?}"), 1, params.len() + 40, || {
            out.clear();
            write_response(&mut out, to, &Key::Number(123_456), ResponsePayload::Success(200, params));
        });
    }
    let escapes = format!("\"{}\"", "가¶".repeat(1000));
    measure("seal 1000 delimiters", 1, escapes.len(), || {
        out.clear();
        out.extend_from_slice(escapes.as_bytes());
        seal(&mut out, 0);
    });

    let entries = vec![entry; 500];
    measure("write a list of 500", 1, entry.len() * 500, || {
        out.clear();
        write_legacy_list(&mut out, &Key::Number(0), entries.iter().copied());
    });
    let list = Packet::parse(&out[..out.len() - 2]).expect("it is a packet");
    measure("take in a list of 500", 1, entry.len() * 500, || {
        let mut unpacked = UnpackedBlocks::default();
        let update = ListUpdate::parse(&list, &mut unpacked).expect("it is a list");
        black_box(Replica::default().apply(Instant::now(), &update));
    });
}

/// Cuts a stream into frames.
fn drain(stream: &[u8], mut each: impl FnMut(&[u8])) {
    let mut decoder = FrameDecoder::new(65_536);
    for chunk in stream.chunks(16_384) {
        decoder.buffer().extend_from_slice(chunk);
        while let Some(frame) = decoder.next_frame().expect("frames are small") {
            each(black_box(&frame));
        }
    }
}

/// Prints how long `work` takes, which handles this many packets of this size.
fn measure(name: &str, packets: usize, packet_bytes: usize, mut work: impl FnMut()) {
    let mut round = || {
        let start = Instant::now();
        let mut times = 0_u32;
        while start.elapsed() < Duration::from_millis(40) {
            work();
            times += 1;
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(times) / packets as f64
    };
    round();
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(f64::total_cmp);
    let ns = rounds[ROUNDS / 2];
    println!("{name:34} {ns:>10.0} {:>10.0} {packet_bytes:>10}", packet_bytes as f64 * 1000.0 / ns);
}
