//! The first packet of a caller. It names the caller, and the instance that it wants.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;
use protocol::{ANY_INSTANCE, Hello, Packet, Version, write_hello};

use super::CallerConnection;

/// Maximum bytes of a caller's instance id, of which ours have 33, and of its name.
const MAX_TEXT_BYTES: usize = 128;

impl CallerConnection<'_> {
    /// Handles the first packet. A caller that names the instance that it wants is told which one
    /// this is.
    pub(super) fn handle_hello(&mut self, frame: &[u8]) {
        let Ok(packet) = Packet::parse(frame) else { return };
        let Hello { from, name, to } = Hello::from_packet(&packet);
        let kept =
            |text: Option<Cow<'_, str>>| text.filter(|text| text.len() <= MAX_TEXT_BYTES).as_deref().map(Arc::from);
        (self.caller.instance, self.caller.stated_name) = (kept(from), kept(name));
        let Some(to) = to else { return };
        let own = self.service.instance();
        self.is_misdirected = to != own && to != ANY_INSTANCE;
        let mut answer = BytesMut::new();
        write_hello(&mut answer, &Hello { from: Some(own.into()), ..Hello::default() });
        self.responses.push(Version::V2, answer);
    }
}
