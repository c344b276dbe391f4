//! Properties that hold for any bytes, in whatever pieces they arrive.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use protocol::{
    CallMeta, CallUrl, FrameDecoder, FrameTooLarge, JsonText, Key, ListUpdate, Packet, Ping, RegisterOptions,
    Registration, RegistrationLimits, Replica, Request, Response, ResponseHeaders, ResponsePayload, ResponseWriter,
    Route, UnpackedBlocks, Version, check_depth, read_copy, read_pairs, read_report, response_parts, seal,
    write_request, write_response,
};

const LIMIT: usize = 200;

/// All frames of a stream that arrives in the given pieces, up to its first error.
fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Bytes>, Option<FrameTooLarge>) {
    decode_by(FrameDecoder::new(LIMIT), chunks)
}

/// The same, of a peer of version 1, whose cut packets are joined.
fn decode_joined<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Bytes>, Option<FrameTooLarge>) {
    let mut decoder = FrameDecoder::new(LIMIT);
    decoder.join_pieces(true);
    decode_by(decoder, chunks)
}

fn decode_by<'a>(
    mut decoder: FrameDecoder,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Bytes>, Option<FrameTooLarge>) {
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.buffer().extend_from_slice(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Bytes in which delimiters, their halves, Korean text and JSON are common.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("¶".as_bytes().to_vec()),
        Just(vec![0xC2]),
        Just(vec![0xB6]),
        Just("\u{AD76}가능".as_bytes().to_vec()),
        Just(br#"{"uri":"/g","key":1}"#.to_vec()),
        Just(r#"{"uri":"/¶","key":1}"#.as_bytes().to_vec()),
        Just(br#"{"a":""#.to_vec()),
        Just(br#"\"}"#.to_vec()),
        vec(any::<u8>(), 0..40),
    ];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".*".prop_map(Into::into),
        "[가-힣¶Â\"\\\\]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Into::into),
            vec(("[a-z¶가]{0,4}", inner), 0..5)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter().map(|end| &bytes[std::mem::replace(&mut start, end)..end]).collect()
}

proptest! {
    /// Rows FR1, FR2 and FR15: pieces do not matter, and nothing of one frame is left in the next.
    #[test]
    fn fr1_fr2_any_chunking_gives_the_same_frames(bytes in stream(), cuts in vec(any::<usize>(), 0..20)) {
        let whole = decode([&bytes[..]]);
        prop_assert_eq!(&decode(pieces(&bytes, &cuts)), &whole);
        prop_assert_eq!(&decode(bytes.chunks(1)), &whole);
    }

    /// Row E4: the same where packets are joined.
    #[test]
    fn e4_any_chunking_gives_the_same_joined_frames(bytes in stream(), cuts in vec(any::<usize>(), 0..20)) {
        let whole = decode_joined([&bytes[..]]);
        prop_assert_eq!(&decode_joined(pieces(&bytes, &cuts)), &whole);
        prop_assert_eq!(&decode_joined(bytes.chunks(1)), &whole);
    }

    /// Rows E4 and E5: packets of a writer that does not escape `¶` come out as they went in.
    #[test]
    fn e4_e5_raw_delimiters_in_texts_do_no_harm(values in vec(vec("[a-z가¶\"\\\\{}]{0,6}", 0..3), 0..6)) {
        let mut decoder = FrameDecoder::new(1 << 20);
        decoder.join_pieces(true);
        let packets: Vec<_> = values.iter().map(|texts| serde_json::json!({ "a": texts })).collect();
        packets.iter().for_each(|packet| decoder.buffer().extend_from_slice(format!("{packet}¶").as_bytes()));
        let mut read = Vec::new();
        while let Some(frame) = decoder.next_frame()? {
            read.push(serde_json::from_slice::<serde_json::Value>(&frame)?);
        }
        prop_assert_eq!(read, packets);
    }

    #[test]
    fn fr1_every_two_way_split(bytes in stream()) {
        let whole = decode([&bytes[..]]);
        for at in 0..=bytes.len() {
            prop_assert_eq!(&decode([&bytes[..at], &bytes[at..]]), &whole);
        }
    }

    /// Rows FR8 and FR9: what we write is one frame and means what it meant, `¶` included.
    #[test]
    fn fr9_decode_of_encode_is_identity(values in vec(json(), 0..6)) {
        let mut out = BytesMut::new();
        for value in &values {
            let start = out.len();
            out.extend_from_slice(value.to_string().as_bytes());
            seal(&mut out, start);
        }
        let mut decoder = FrameDecoder::new(usize::MAX - 1);
        decoder.buffer().extend_from_slice(&out);
        let mut read = Vec::new();
        while let Some(frame) = decoder.next_frame()? {
            read.push(serde_json::from_slice::<serde_json::Value>(&frame)?);
        }
        prop_assert_eq!(read, values);
    }

    /// Rows FR18 and JS6: for any bytes, readers return a value or an error.
    #[test]
    fn no_input_panics(bytes in stream(), text in ".*", value in json()) {
        let _ = (check_depth(&bytes, 3), Route::parse(&text));
        let value = value.to_string();
        let member = format!(r#"{{"uri":"/a","key":1,"params":{value},"$":{value},"errorcode":{value},"errormessage":{value}}}"#);
        for frame in [&bytes[..], text.as_bytes(), value.as_bytes(), member.as_bytes()] {
            let Ok(packet) = Packet::parse(frame) else { continue };
            let _ = Response::from_packet(&packet);
            let _ = Registration::parse(packet.params, &RegistrationLimits::default());
            let _ = RegisterOptions::parse(packet.meta, &RegistrationLimits::default());
            #[expect(clippy::disallowed_methods, reason = "any instant will do")]
            let now = std::time::Instant::now();
            let _ = ListUpdate::parse(&packet, &mut UnpackedBlocks::default()).map(|update| Replica::default().apply(now, &update));
            let _ = (read_copy(&packet), protocol::Pong::from_packet(&packet), read_report(packet.params), Ping::from_packet(&packet));
            let _ = Request::from_packet(packet);
        }
    }

    /// Row JS4: a key is sent back as it came, digit by digit.
    #[test]
    fn js4_keys_are_never_rounded(digits in "(-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,9})?(e-?[0-9]{1,4})?)|\"[a-z0-9]{0,30}\"") {
        let frame = format!(r#"{{"key":{digits}}}"#);
        let key = Packet::parse(frame.as_bytes())?.key.expect("it has one");
        let mut out = BytesMut::new();
        write_response(&mut out, Version::V1, &key, ResponsePayload::Success(200, "1"));
        let answer = format!(r#"{{"key":{digits},"errorcode":0,"errormessage":"success","results":1}}¶"#);
        prop_assert_eq!(out, answer.as_bytes());
    }

    /// Whatever a caller passes, a version 1 service receives an object whose last `key` is ours,
    /// and whose other members are unchanged.
    #[test]
    fn old_services_always_get_our_key(params in json(), key in any::<u64>()) {
        let mut out = BytesMut::new();
        let params_text = params.to_string();
        write_request(&mut out, Version::V1, CallUrl::new("GET", "/g"), Some(key), &params_text, &CallMeta::default());
        let packet = Packet::parse(&out[..out.len() - 2])?;
        let mut seen: serde_json::Map<_, _> = serde_json::from_str(packet.params.expect("written").get())?;
        prop_assert_eq!(seen.remove("key"), Some(key.into()));
        let mut expected = params.as_object().cloned().unwrap_or_default();
        expected.remove("key");
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn an_entry_keeps_extra_members(name in ".*", port in 1_u16.., extra in json()) {
        let params = serde_json::json!({ "port": port, "name": name, "urls": [], "x": extra }).to_string();
        let raw = serde_json::from_str(&params)?;
        let registration = Registration::parse(Some(raw), &RegistrationLimits::default())?;
        let entry: serde_json::Value = serde_json::from_str(&registration.entry("::1"))?;
        prop_assert_eq!(&entry["x"], &extra);
        prop_assert_eq!(&entry["name"], &serde_json::Value::from(name));
        prop_assert_eq!(&entry["host"], "::1");
    }

    /// Splitting a call and parsing it give the same result for all valid text, and both refuse
    /// what is not valid.
    #[test]
    fn cutting_is_parsing(
        uri in "[a-z/\"¶\\\\]{0,6}", key in proptest::option::of(0_u64..1 << 53), params in json(), extra in "(,\"x\":1)?",
        cut in 0_usize..200, put in "[{}\":,$a1 \n\u{c}]?", client in json(),
    ) {
        let params = params.to_string();
        let mut out = BytesMut::new();
        let client = client.to_string();
        let meta = CallMeta { attempt: 1, request: Some(JsonText(&client)), ..CallMeta::default() };
        write_request(&mut out, Version::V2, CallUrl::new("GET", &uri), key, &params, &meta);
        let mut text = String::from_utf8(out[..out.len() - 3].to_vec()).unwrap() + &extra + "}";
        if cut < text.len() && text.is_char_boundary(cut) {
            text.insert_str(cut, &put);
        }
        let whole = Packet::parse(text.as_bytes()).map(Request::from_packet);
        match (Request::parse(text.as_bytes()), whole) {
            (Ok(mut quick), Ok(whole)) => {
                // If the arguments are not JSON, the whole packet is parsed.
                if quick.verify().is_ok() {
                    prop_assert_eq!(format!("{:?}", (quick.uri, quick.method, quick.key, quick.params, quick.meta)),
                        format!("{:?}", (whole.uri, whole.method, whole.key, whole.params, whole.meta)));
                }
            }
            (Ok(mut quick), Err(_)) => prop_assert!(quick.verify().is_err(), "{text}"),
            (Err(_), Ok(_)) => prop_assert!(false, "{text}"),
            (Err(_), Err(_)) => {}
        }
    }
}

proptest! {
    /// The same of a response with header fields, and these read back.
    #[test]
    fn cutting_a_response_is_parsing(
        status in 200_u16..600, fields in vec((".{0,3}", ".{0,5}"), 0..4), body in json(),
        extra in "(,\"x\":1)?", cut in 0_usize..80, put in "[{}\":,$a1\\[\\]]?",
    ) {
        let mut headers = ResponseHeaders::default();
        fields.iter().for_each(|(name, value)| headers.append(name.clone(), value.clone()));
        let mut out = BytesMut::new();
        let writer = ResponseWriter::begin_http(&mut out, &Key::Number(7), status, &headers);
        out.extend_from_slice(body.to_string().as_bytes());
        writer.end(&mut out);
        let whole = out[..out.len() - 2].to_vec();
        if let Some(parts) = response_parts(&whole) {
            let pairs = parts.headers.map(|text| read_pairs(text.as_bytes()).expect("it is written so"));
            let pairs = pairs.unwrap_or_default();
            let seen: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
            prop_assert_eq!(seen, headers.iter().collect::<Vec<_>>());
        } else {
            prop_assert!(false, "our own form is cut");
        }
        let mut text = String::from_utf8(whole[..whole.len() - 1].to_vec()).unwrap() + &extra + "}";
        if cut < text.len() && text.is_char_boundary(cut) {
            text.insert_str(cut, &put);
        }
        let Some(parts) = response_parts(text.as_bytes()) else { return Ok(()) };
        let body = serde_json::from_slice::<&serde_json::value::RawValue>(parts.body);
        match Packet::parse(text.as_bytes()) {
            Ok(packet) if body.is_ok() => {
                let read = Response::from_packet(&packet);
                prop_assert_eq!((read.status, packet.key), (parts.status, Some(Key::Number(parts.key))));
                prop_assert_eq!(read.headers.map(|text| text.get()), parts.headers);
                prop_assert_eq!(read.body.map_or("null", |body| body.get()).as_bytes(), parts.body.trim_ascii());
            }
            Ok(_) => {}
            Err(_) => prop_assert!(body.is_err(), "{text}"),
        }
    }
}

#[test]
fn a_key_of_a_call_survives_any_spelling() {
    for (text, number) in [("7", Some(7)), ("\"7\"", Some(7)), ("07", None)] {
        let key = serde_json::from_str::<Key>(text).ok().and_then(|key| key.number());
        assert_eq!(key, number, "{text}");
    }
}
