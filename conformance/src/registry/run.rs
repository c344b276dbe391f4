//! Runs each check of the registry half.

use std::time::Duration;

use protocol::{Digest, EVENT_PREFIX, Revision, Route, Secret, WantedHeaders, is_field_name};
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::RegistryCheck;
use super::list::{PlayedList, notice};
use super::played::{Kind, PlayedDistributor, state_in};
use crate::wire::shown;

/// Limits of a registration, as docs/PROTOCOL.md has them.
const MAX_NAME_BYTES: usize = 128;
const MAX_URLS: usize = 256;
const MAX_URL_BYTES: usize = 512;
/// The largest packet that a Distributor takes.
const MAX_PACKET_BYTES: usize = 65_536;
/// Entries that make a copy of more than one packet.
const MANY_ENTRIES: usize = 90;
/// Pause between the bytes of a packet, so that the node reads them one by one.
const PIECE_TIME: Duration = Duration::from_millis(1);
/// How long a node that must wait is watched.
const WATCH_TIME: Duration = Duration::from_millis(500);
/// When a node may register again that found the Distributor busy.
const BUSY_TIME: Duration = Duration::from_millis(400);
/// How long the Distributor is dead.
const DEAD_TIME: Duration = Duration::from_millis(300);
/// The part of its time that a node may give up a silent Distributor earlier or later.
const SILENCE_TOLERANCE_DIVISOR: u32 = 7;

/// What was seen: `Ok` if it is as expected.
type Observed = Result<String, String>;

impl RegistryCheck {
    /// Runs this check. It sees to it first that the node is registered and knows the list.
    pub(crate) async fn run(self, distributor: &mut PlayedDistributor) -> Observed {
        distributor.settle().await?;
        match self {
            Self::Register => register(distributor).await,
            Self::InstanceProof => instance_proof(distributor),
            Self::StatedRoutes => stated_routes(distributor),
            Self::List => list(distributor).await,
            Self::ListInPieces => list_in_pieces(distributor).await,
            Self::ListUnknownMembers => list_unknown_members(distributor).await,
            Self::ListPacked => list_packed(distributor).await,
            Self::Change => change(distributor).await,
            Self::ChangeStale => change_stale(distributor).await,
            Self::ChangeOtherBase => change_other_base(distributor).await,
            Self::ChangeWrongDigest => change_wrong_digest(distributor).await,
            Self::Ping => distributor.expect_same_state().await,
            Self::PingOtherDigest => ping_other_digest(distributor).await,
            Self::UnknownPacket => {
                distributor.send(r#"{"uri":"$nodeconform","key":7,"params":{},"$":{}}"#).await?;
                let unknown = r#"{"uri":"/distributes","method":"NODECONFORM","key":0,"params":[],"$":{}}"#;
                distributor.send(unknown).await?;
                distributor.expect_same_state().await
            }
            Self::UnknownWord => {
                distributor.send(&notice(200, "nodeconform", None)).await?;
                distributor.expect_same_state().await
            }
            Self::Refusal => {
                distributor.send(&notice(400, "nodeconform", None)).await?;
                let seen = distributor.expect_same_state().await?;
                distributor.expect_silence(WATCH_TIME).await.map(|()| seen)
            }
            Self::Copy => copy(distributor).await,
            Self::HeldBack => held_back(distributor).await,
            Self::Busy => busy(distributor).await,
            Self::Superseded => superseded(distributor).await,
            Self::Reconnect => reconnect(distributor).await,
            Self::Resume => comes_back(distributor, 0).await,
            Self::NewEpoch => comes_back(distributor, 1).await,
            Self::Silence => silence(distributor).await,
        }
    }
}

/// An entry of a node that is never called.
fn neighbour(name: &str) -> String {
    format!(r#"{{"port":1,"name":"{name}","urls":[],"host":"::ffff:127.0.0.1"}}"#)
}

async fn register(distributor: &PlayedDistributor) -> Observed {
    let registered = distributor.registered()?;
    let advert = registered.advert();
    let text = |members: &Map<String, Value>, name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
    let name = text(&registered.params, "name").ok_or("its name is not a text")?;
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_usual) {
        return Err(format!("its name is {}", shown(&name)));
    }
    if advert.get("v") != Some(&2.into()) {
        return Err("its $ has no v of 2".to_owned());
    }
    if text(&advert, "id").is_none_or(|id| id.is_empty()) {
        return Err("its $ has no id of the instance".to_owned());
    }
    let urls = registered.params.get("urls").and_then(Value::as_array).ok_or("it has no urls")?;
    let is_url = |url: &Value| url.as_str().is_some_and(|url| url.len() <= MAX_URL_BYTES && Route::parse(url).is_ok());
    if let Some(bad) = urls.iter().find(|url| !is_url(url)) {
        return Err(format!("{} is not a url", shown(&bad.to_string())));
    }
    if urls.len() > MAX_URLS {
        return Err(format!("it has {} urls; a Distributor takes {MAX_URLS}", urls.len()));
    }
    let port = registered.params.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| *port > 0).ok_or("its port is not a number from 1 to 65535")?;
    let seen = format!("{name} with {} urls at port {port}", urls.len());
    if advert.contains_key("advertise") {
        return Ok(seen);
    }
    match timeout(distributor.patience.within, TcpStream::connect((registered.host, port))).await {
        Ok(Ok(_)) => Ok(seen),
        Ok(Err(error)) => Err(format!("it does not listen on port {port}: {error}")),
        Err(_) => Err(format!("it does not listen on port {port}")),
    }
}

fn instance_proof(distributor: &PlayedDistributor) -> Observed {
    let registered = distributor.registered()?;
    let id = registered.id().ok_or("it has no id")?;
    if !Secret::guards(&id) {
        return Ok("an id that any peer can register".to_owned());
    }
    let secret = registered.options.get("secret").and_then(Value::as_str).and_then(Secret::new);
    let secret = secret.ok_or("the $ of its packet has no secret")?;
    if registered.advert().contains_key("secret") || registered.params.contains_key("secret") {
        return Err("its secret is where all nodes see it".to_owned());
    }
    if secret.instance() == id { Ok(id) } else { Err(format!("{id} is not made of its secret")) }
}

fn stated_routes(distributor: &PlayedDistributor) -> Observed {
    let registered = distributor.registered()?;
    let urls = registered.params.get("urls").and_then(Value::as_array).cloned().unwrap_or_default();
    let advert = registered.advert();
    let Some(stated) = advert.get("routes") else { return Ok("nothing, so all routes are public".to_owned()) };
    let bad = || format!("$.routes is {}", shown(&stated.to_string()));
    let mut public = Vec::new();
    for one in stated.as_array().ok_or_else(bad)? {
        let positions = one.get("at").and_then(Value::as_array).ok_or_else(bad)?;
        let is_public = one.get("public").unwrap_or(&Value::Bool(false)).as_bool().ok_or_else(bad)?;
        if let Some(headers) = one.get("headers") {
            let names = headers.as_array().ok_or_else(bad)?;
            let is_name = |name: &Value| name.as_str().is_some_and(is_field_name);
            if names.len() > WantedHeaders::MAX_NAMES || !names.iter().all(is_name) {
                return Err(format!("it reads the header fields {}", shown(&headers.to_string())));
            }
        }
        for position in positions {
            let position = position.as_u64().and_then(|position| usize::try_from(position).ok()).ok_or_else(bad)?;
            let url = urls.get(position).and_then(Value::as_str);
            let url = url.ok_or_else(|| format!("{}: there is no url {position}", bad()))?;
            if is_public && url.starts_with(EVENT_PREFIX) {
                return Err(format!("the event {} is public", shown(url)));
            }
            if is_public {
                public.push(position);
            }
        }
    }
    Ok(format!("{} of {} urls are public", public.len(), urls.len()))
}

async fn list(distributor: &mut PlayedDistributor) -> Observed {
    let spelled = r#"{"port":1,"name":"\u00b6 굶\/","urls":[],"weight":1.50,"x":[ 1 , {"y":1e2} ],"host":"::1"}"#;
    let id = distributor.list.put(spelled.to_owned());
    distributor.send(&distributor.list.whole("0", "")).await?;
    let seen = distributor.expect_state().await;
    distributor.list.remove(id);
    seen
}

async fn list_in_pieces(distributor: &mut PlayedDistributor) -> Observed {
    let id = distributor.list.put(neighbour("굶 가나다"));
    for byte in format!("{}¶", distributor.list.whole("0", "")).as_bytes() {
        distributor.send_bytes(&[*byte]).await?;
        sleep(PIECE_TIME).await;
    }
    distributor.expect_state().await?;
    let mut packets = String::new();
    for _ in 0..3 {
        let base = distributor.list.revision;
        distributor.list.replace(id, &neighbour("nodeconform"));
        packets += &format!("¶ \r\n{}¶", distributor.list.change(base, &[id], &[]));
    }
    distributor.send_bytes(packets.as_bytes()).await?;
    let seen = distributor.expect_state().await;
    distributor.list.remove(id);
    seen
}

async fn list_unknown_members(distributor: &mut PlayedDistributor) -> Observed {
    let entry = r#"{"port":1,"name":"n","urls":[],"new":{"a":[null]},"host":"::1","$":{"v":3,"new":1,"routes":{}}}"#;
    let id = distributor.list.put(entry.to_owned());
    let whole = distributor.list.whole("0", r#","new":[{"epoch":1}]"#);
    distributor.send(&whole.replacen('{', r#"{"new":{"$":{}},"#, 1)).await?;
    distributor.expect_state().await?;
    let base = distributor.list.revision;
    distributor.list.remove(id);
    let change = distributor.list.change(base, &[], &[id]);
    distributor.send(&change.replacen(r#""reason":"closed""#, r#""reason":"nodeconform","new":1"#, 1)).await?;
    distributor.expect_state().await
}

async fn list_packed(distributor: &mut PlayedDistributor) -> Observed {
    if distributor.registered()?.options.get("packed") != Some(&true.into()) {
        return Ok("it does not say that it reads them".to_owned());
    }
    let ids = [neighbour("a"), neighbour("b")].map(|entry| distributor.list.put(entry));
    distributor.send(&distributor.list.whole_packed()).await?;
    let seen = distributor.expect_state().await;
    ids.into_iter().for_each(|id| distributor.list.remove(id));
    seen
}

async fn change(distributor: &mut PlayedDistributor) -> Observed {
    let base = distributor.list.revision;
    let id = distributor.list.put(neighbour("nodeconform"));
    distributor.send(&distributor.list.change(base, &[id], &[])).await?;
    distributor.expect_state().await?;
    let base = distributor.list.revision;
    distributor.list.replace(id, &neighbour("replaced"));
    distributor.send(&distributor.list.change(base, &[id], &[])).await?;
    distributor.expect_state().await?;
    let base = distributor.list.revision;
    distributor.list.remove(id);
    distributor.send(&distributor.list.change(base, &[], &[id])).await?;
    distributor.expect_state().await
}

async fn change_stale(distributor: &mut PlayedDistributor) -> Observed {
    let base = distributor.list.revision;
    let id = distributor.list.put(neighbour("nodeconform"));
    let joined = distributor.list.change(base, &[id], &[]);
    distributor.send(&joined).await?;
    distributor.expect_state().await?;
    let base = distributor.list.revision;
    distributor.list.remove(id);
    distributor.send(&distributor.list.change(base, &[], &[id])).await?;
    distributor.expect_state().await?;
    // It does not ask to be acknowledged, so the pong that comes is of the ping.
    distributor.send(&joined.replacen(r#","ack":true"#, "", 1)).await?;
    distributor.expect_same_state().await
}

/// Sends a change that does not lead from what the node has, which is `before`. The node must keep
/// that, and ask for the list, which it is sent. Returns whether it has the list then, and removes
/// the entry `id` of the change again.
async fn refuse_change(distributor: &mut PlayedDistributor, change: &str, before: &PlayedList, id: u64) -> Observed {
    distributor.send(&change.replacen(r#","ack":true"#, "", 1)).await?;
    let key = distributor.expect_request(before).await?;
    distributor.send(&distributor.list.whole(&key, "")).await?;
    let seen = distributor.expect_state().await;
    distributor.list.remove(id);
    seen
}

async fn change_other_base(distributor: &mut PlayedDistributor) -> Observed {
    let before = distributor.list.clone();
    distributor.list.revision.rev += 5;
    let base = distributor.list.revision;
    let id = distributor.list.put(neighbour("nodeconform"));
    let change = distributor.list.change(base, &[id], &[]);
    refuse_change(distributor, &change, &before, id).await
}

async fn change_wrong_digest(distributor: &mut PlayedDistributor) -> Observed {
    let before = distributor.list.clone();
    let base = distributor.list.revision;
    let id = distributor.list.put(neighbour("nodeconform"));
    let Digest(digest) = distributor.list.digest();
    let change = distributor.list.change_to(Digest(digest ^ 1), base, &[id], &[]);
    refuse_change(distributor, &change, &before, id).await
}

async fn ping_other_digest(distributor: &mut PlayedDistributor) -> Observed {
    let Digest(digest) = distributor.list.digest();
    distributor.send(&distributor.list.ping(Digest(digest ^ 1))).await?;
    let (_, packet) = distributor.expect(&[Kind::ListRequest], distributor.patience.within).await?;
    let key = packet.get("key").ok_or("the request has no key")?.to_owned();
    distributor.list.revision.rev += 1;
    distributor.send(&distributor.list.whole(&key, "")).await?;
    distributor.expect_state().await
}

async fn copy(distributor: &mut PlayedDistributor) -> Observed {
    let long = "x".repeat(1000);
    let ids: Vec<_> = (0..MANY_ENTRIES).map(|_| distributor.list.put(neighbour(&long))).collect();
    distributor.send(&distributor.list.whole("0", "")).await?;
    distributor.expect_state().await?;
    distributor.send(r#"{"uri":"/distributes","method":"GET","key":0,"$":{"copy":true}}"#).await?;
    let (mut digest, mut packets, mut entries) = (Digest::default(), 0, 0);
    loop {
        let (_, packet) = distributor.expect(&[Kind::Copy], distributor.patience.within).await?;
        packets += 1;
        let meta = packet.meta().unwrap_or_default();
        if state_in(&meta) != Some((distributor.list.revision, distributor.list.digest())) {
            return Err(format!("its $ is {}", shown(packet.get("$").unwrap_or("missing"))));
        }
        if packet.text.len() > MAX_PACKET_BYTES {
            return Err(format!("a packet of {} bytes", packet.text.len()));
        }
        let sent: Vec<&serde_json::value::RawValue> =
            serde_json::from_str(packet.get("params").unwrap_or("null")).map_err(|error| error.to_string())?;
        let ids = meta.get("ids").and_then(Value::as_array).cloned().unwrap_or_default();
        if ids.len() != sent.len() {
            return Err(format!("{} ids for {} entries", ids.len(), sent.len()));
        }
        for (id, entry) in ids.iter().zip(&sent) {
            digest.add(id.as_u64().ok_or("an id is not a number")?, entry.get());
        }
        entries += sent.len();
        if meta.get("more") != Some(&true.into()) {
            break;
        }
    }
    let whole = distributor.list.digest();
    ids.into_iter().for_each(|id| distributor.list.remove(id));
    if digest == whole {
        Ok(format!("{entries} entries in {packets} packets"))
    } else {
        Err(format!("{entries} entries in {packets} packets, which are not those of its list"))
    }
}

async fn held_back(distributor: &mut PlayedDistributor) -> Observed {
    distributor.next_session().await?;
    distributor.send(&notice(202, "held_back", None)).await?;
    distributor.expect_silence(WATCH_TIME).await?;
    distributor.settle().await?;
    Ok("it waits".to_owned())
}

async fn busy(distributor: &mut PlayedDistributor) -> Observed {
    distributor.next_session().await?;
    distributor.send(&notice(503, "busy", Some(BUSY_TIME.as_millis()))).await?;
    let told = Instant::now();
    // On the same connection or a new one.
    if let Err(seen) = distributor.expect(&[Kind::Registration], distributor.patience.return_time).await {
        if distributor.registered().is_ok() {
            return Err(seen);
        }
        distributor.next_session().await?;
    }
    let took = told.elapsed();
    if took < BUSY_TIME { Err(format!("it came after {took:.1?}")) } else { Ok(format!("after {took:.1?}")) }
}

async fn superseded(distributor: &mut PlayedDistributor) -> Observed {
    distributor.send(&notice(409, "superseded", None)).await?;
    if let Ok((_, packet)) = distributor.expect(&[Kind::Registration], WATCH_TIME).await {
        return Err(format!("on the same connection: {}", shown(&packet.text)));
    }
    let told = Instant::now();
    distributor.next_session().await?;
    Ok(format!("on a new connection after {:.1?}", told.elapsed()))
}

async fn reconnect(distributor: &mut PlayedDistributor) -> Observed {
    let id = distributor.registered()?.id();
    let held = (distributor.list.revision, distributor.list.digest());
    distributor.die();
    sleep(DEAD_TIME).await;
    distributor.revive().await?;
    let revived = Instant::now();
    distributor.next_session().await?;
    let took = revived.elapsed();
    let registered = distributor.registered()?;
    if registered.id() != id {
        return Err(format!("it is another instance: {}", registered.id().unwrap_or_default()));
    }
    let have = registered.options.get("have").and_then(Value::as_object).cloned().unwrap_or_default();
    if state_in(&have) != Some(held) {
        return Err(format!("it says that it has {}", shown(&Value::from(have).to_string())));
    }
    Ok(format!("after {took:.1?}"))
}

/// Ends the session. The node is then told the changes since the state that it has, which lead to
/// an epoch that is later by `epochs`.
async fn comes_back(distributor: &mut PlayedDistributor, epochs: u64) -> Observed {
    let before = distributor.list.clone();
    let base = before.revision;
    distributor.next_session().await?;
    // The connection before is gone, and with it the entry.
    let gone: Vec<_> = before.ids().into_iter().filter(|id| !distributor.list.ids().contains(id)).collect();
    let own = distributor.list_node()?;
    if epochs > 0 {
        distributor.list.revision = Revision { epoch: base.epoch + epochs, rev: 0 };
    }
    distributor.send(&distributor.list.change(base, &[own], &gone)).await?;
    distributor.expect_state().await
}

async fn silence(distributor: &mut PlayedDistributor) -> Observed {
    distributor.expect_same_state().await?;
    let begun = Instant::now();
    let time = distributor.patience.silence;
    let tolerance = time / SILENCE_TOLERANCE_DIVISOR;
    let seen = distributor.expect(&[Kind::Copy], time + tolerance).await;
    let took = begun.elapsed();
    if distributor.registered().is_ok() {
        return Err(seen.err().unwrap_or_default());
    }
    let seen = format!("after {took:.1?}");
    if took < time.saturating_sub(tolerance) { Err(seen) } else { Ok(seen) }
}
