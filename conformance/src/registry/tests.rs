//! A node that keeps the protocol passes each check. Each check fails on a node with a fault.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use clap::ValueEnum;
use protocol::{
    FrameDecoder, ListUpdate, Packet, Ping, Replica, Response, Secret, UnpackedBlocks, UpdateOutcome, is_copy_request,
    write_copy, write_list_request, write_pong,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Patience, PlayedDistributor, RegistryCheck};

/// When the node of the tests gives up a silent Distributor: later than a check gives up that waits
/// for an answer.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a check of a node with a fault waits.
const WITHIN: Duration = Duration::from_secs(2);
/// How long that node waits before it connects again.
const PAUSE: Duration = Duration::from_millis(20);

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    DeadPort,
    WrongSecret,
    PublicEvent,
    BadHeaders,
    SpellsEntriesAnew,
    DropsPieces,
    ClosesOnUnknownMembers,
    IgnoresPacked,
    IgnoresChanges,
    AsksWhenStale,
    NeverAsks,
    TrustsChanges,
    SilentToPings,
    ClosesOnUnknownPackets,
    TakesNoticesForLists,
    RegistersAtOnce,
    CopiesAPart,
    NewInstanceEachTime,
    NeverReturns,
    ForgetsTheList,
    IgnoresLaterEpochs,
    NeverGivesUp,
}

/// The node of the tests.
struct TestNode {
    fault: Fault,
    port: u16,
    sessions: u32,
    replica: Replica,
    out: BytesMut,
    register_at: Option<Instant>,
    /// What it says that it has, in place of what it has.
    claimed: Option<protocol::Pong>,
}

impl TestNode {
    async fn run(distributor: SocketAddr, fault: Fault) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = (fault != Fault::DeadPort).then_some(listener);
        let mut node = Self {
            fault,
            port,
            sessions: 0,
            replica: Replica::default(),
            out: BytesMut::new(),
            register_at: None,
            claimed: None,
        };
        loop {
            if let Ok(stream) = TcpStream::connect(distributor).await {
                node.session(stream).await;
                if fault == Fault::NeverReturns {
                    std::future::pending::<()>().await;
                }
            }
            sleep(PAUSE).await;
            let _still_open = &listener;
        }
    }

    async fn session(&mut self, mut stream: TcpStream) {
        self.sessions += 1;
        if self.fault == Fault::ForgetsTheList {
            self.replica = Replica::default();
        }
        self.replica.record_connect();
        self.out.clear();
        self.register();
        let mut decoder = FrameDecoder::new(1 << 20);
        loop {
            stream.write_all(&self.out.split()).await.unwrap();
            let silence = if self.fault == Fault::NeverGivesUp { Duration::from_secs(60) } else { SILENCE };
            let due = self.register_at.map_or(silence, |at| at.saturating_duration_since(Instant::now()));
            match timeout(due, stream.read_buf(decoder.buffer())).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => {}
                Err(_) if self.register_at.take().is_some() => self.register(),
                Err(_) => return,
            }
            while let Some(frame) = decoder.next_frame().unwrap() {
                if !protocol::is_blank(&frame) && !self.take(&frame) {
                    return;
                }
            }
            if self.fault == Fault::DropsPieces {
                decoder = FrameDecoder::new(1 << 20);
            }
        }
    }

    fn register(&mut self) {
        let (sessions, fault, port) = (self.sessions, self.fault, self.port);
        let number = if fault == Fault::NewInstanceEachTime { sessions } else { 0 };
        let secret = Secret::new(format!("secret {number}")).unwrap();
        let shown = if fault == Fault::WrongSecret { "another" } else { secret.reveal() };
        let at = if fault == Fault::PublicEvent { "0,1" } else { "0" };
        let headers = if fault == Fault::BadHeaders { r#"["cookie:"]"# } else { r#"["cookie"]"# };
        let have = self.replica.revision().map_or_else(String::new, |revision| {
            let digest = self.replica.digest().0;
            format!(r#","have":{{"epoch":{},"rev":{},"digest":{digest}}}"#, revision.epoch, revision.rev)
        });
        let id = secret.instance();
        let packet = format!(
            r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"n","urls":["GET/n","EVENT/e"],"$":{{"v":2,"id":"{id}","routes":[{{"at":[{at}],"public":true,"headers":{headers}}}]}}}},"$":{{"secret":"{shown}","packed":true{have}}}}}¶"#
        );
        self.out.extend_from_slice(packet.as_bytes());
    }

    fn pong(&mut self) {
        let mut pong = self.claimed.unwrap_or_else(|| self.replica.pong(true));
        let is_odd = self.replica.entries().any(|(_, entry)| entry.contains("1.50"));
        if self.fault == Fault::SpellsEntriesAnew && is_odd {
            pong.digest = Some(protocol::Digest(0));
        }
        write_pong(&mut self.out, pong);
    }

    fn ask(&mut self) {
        if self.fault != Fault::NeverAsks {
            write_list_request(&mut self.out, 3);
        }
    }

    /// Takes a packet. Returns whether the session goes on.
    fn take(&mut self, frame: &[u8]) -> bool {
        let text = String::from_utf8_lossy(frame).into_owned();
        let has = |words: &str| text.contains(words);
        match self.fault {
            Fault::ClosesOnUnknownMembers if has(r#""new""#) => return false,
            Fault::IgnoresPacked if has(r#""packed""#) => return true,
            Fault::IgnoresLaterEpochs if has(r#""was""#) => return true,
            Fault::IgnoresChanges if has("PATCH") => return true,
            Fault::ClosesOnUnknownPackets if has("$nodeconform") => return false,
            _usual => {}
        }
        let Ok(packet) = Packet::parse(frame) else { return true };
        match (packet.uri(), packet.method()) {
            ("$ping", _) if self.fault == Fault::SilentToPings => {}
            ("$ping", _) => {
                self.pong();
                let Ping { revision, digest, .. } = Ping::from_packet(&packet);
                if revision == self.replica.revision() && digest != Some(self.replica.digest()) {
                    self.ask();
                }
            }
            ("/distributes", "GET") if is_copy_request(&packet) => {
                let count = self.replica.len() - usize::from(self.fault == Fault::CopiesAPart);
                let (revision, digest) = (self.replica.revision().unwrap(), self.replica.digest());
                write_copy(&mut self.out, revision, digest, self.replica.entries().take(count));
            }
            ("/distributes", "GET" | "PATCH") => match Response::from_packet(&packet) {
                Response { reason: Some(_), retry_after, .. } => self.notice(retry_after),
                Response { .. } => self.update(&packet),
            },
            _unknown => {}
        }
        true
    }

    fn notice(&mut self, retry_after: Option<Duration>) {
        match self.fault {
            Fault::RegistersAtOnce => self.register(),
            Fault::TakesNoticesForLists => self.replica = Replica::default(),
            _usual => self.register_at = retry_after.map(|after| Instant::now() + after + PAUSE),
        }
    }

    fn update(&mut self, packet: &Packet<'_>) {
        let mut unpacked = UnpackedBlocks::default();
        let update = ListUpdate::parse(packet, &mut unpacked).unwrap();
        let header = match &update {
            ListUpdate::Whole(list) => list.header.unwrap(),
            ListUpdate::Delta(delta) => delta.header,
        };
        self.claimed = None;
        match self.replica.apply(Instant::now().into_std(), &update) {
            UpdateOutcome::Gap => {
                self.ask();
                if self.fault == Fault::TrustsChanges {
                    self.claimed = Some(protocol::Pong { revision: Some(header.revision), digest: header.digest });
                }
            }
            UpdateOutcome::Stale if self.fault == Fault::AsksWhenStale => self.ask(),
            UpdateOutcome::Changed | UpdateOutcome::Same | UpdateOutcome::Stale => {}
        }
        if header.ack {
            self.pong();
        }
    }
}

async fn begin(fault: Fault, within: Duration) -> (PlayedDistributor, JoinSet<()>) {
    let patience = Patience { within, return_time: within, silence: SILENCE };
    let mut distributor = PlayedDistributor::bind("127.0.0.1:0".parse().unwrap(), patience).await.unwrap();
    let mut node = JoinSet::new();
    node.spawn(TestNode::run(distributor.address, fault));
    assert_eq!(distributor.wait_for_node().await, r#""n""#);
    (distributor, node)
}

#[tokio::test]
async fn a_node_that_keeps_the_protocol_passes_every_check() {
    let (mut distributor, _node) = begin(Fault::None, Duration::from_secs(60)).await;
    for check in RegistryCheck::value_variants() {
        let seen = check.run(&mut distributor).await;
        assert!(seen.is_ok(), "{check:?}: {seen:?}");
    }
}

#[tokio::test]
async fn each_check_fails_on_a_node_with_a_fault() {
    let faults = [
        (RegistryCheck::Register, Fault::DeadPort, "does not listen on port"),
        (RegistryCheck::InstanceProof, Fault::WrongSecret, "is not made of its secret"),
        (RegistryCheck::StatedRoutes, Fault::PublicEvent, "the event EVENT/e is public"),
        (RegistryCheck::StatedRoutes, Fault::BadHeaders, "it reads the header fields [\"cookie:\"]"),
        (RegistryCheck::List, Fault::SpellsEntriesAnew, "was due: {\"uri\":\"$pong\""),
        (RegistryCheck::ListInPieces, Fault::DropsPieces, "was due; a pong was due"),
        (RegistryCheck::ListUnknownMembers, Fault::ClosesOnUnknownMembers, "the connection was closed"),
        (RegistryCheck::ListPacked, Fault::IgnoresPacked, "was due; a pong was due: silence"),
        (RegistryCheck::Change, Fault::IgnoresChanges, "was due; a pong was due: silence"),
        (RegistryCheck::ChangeStale, Fault::AsksWhenStale, "\"method\":\"GET\",\"key\":3"),
        (RegistryCheck::ChangeOtherBase, Fault::NeverAsks, "a request for the list was due: silence"),
        (RegistryCheck::ChangeWrongDigest, Fault::NeverAsks, "a request for the list was due: silence"),
        (RegistryCheck::ChangeWrongDigest, Fault::TrustsChanges, "it has changed what it knows"),
        (RegistryCheck::Ping, Fault::SilentToPings, "a pong or a request for the list was due: silence"),
        (RegistryCheck::PingOtherDigest, Fault::NeverAsks, "a request for the list was due: silence"),
        (RegistryCheck::UnknownPacket, Fault::ClosesOnUnknownPackets, "the connection was closed"),
        (RegistryCheck::UnknownWord, Fault::TakesNoticesForLists, "{\"uri\":\"$pong\",\"$\":{}}"),
        (RegistryCheck::Refusal, Fault::RegistersAtOnce, "\"method\":\"POST\""),
        (RegistryCheck::Copy, Fault::CopiesAPart, "which are not those of its list"),
        (RegistryCheck::HeldBack, Fault::RegistersAtOnce, "\"method\":\"POST\""),
        (RegistryCheck::Busy, Fault::RegistersAtOnce, "it came after"),
        (RegistryCheck::Superseded, Fault::RegistersAtOnce, "on the same connection"),
        (RegistryCheck::Reconnect, Fault::NeverReturns, "has not come back within"),
        (RegistryCheck::Reconnect, Fault::NewInstanceEachTime, "it is another instance"),
        (RegistryCheck::Reconnect, Fault::ForgetsTheList, "it says that it has {}"),
        (RegistryCheck::Resume, Fault::ForgetsTheList, "was due"),
        (RegistryCheck::NewEpoch, Fault::IgnoresLaterEpochs, "was due; a pong was due: silence"),
        (RegistryCheck::Silence, Fault::NeverGivesUp, "a copy was due: silence"),
    ];
    let mut all = JoinSet::new();
    for (check, fault, words) in faults {
        all.spawn(async move {
            let (mut distributor, _node) = begin(fault, WITHIN).await;
            let seen = check.run(&mut distributor).await;
            assert!(seen.as_ref().is_err_and(|seen| seen.contains(words)), "{check:?}, {fault:?}: {seen:?}");
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    for check in RegistryCheck::value_variants() {
        assert!(faults.iter().any(|(other, _, _)| other == check), "{check:?} may never fail");
    }
}
