//! Calls of the node to itself: the same rules as for calls of others, without a connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use bytes::{Bytes, BytesMut};
use protocol::{CallMeta, CallUrl, Key, Request, Version};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::client::local_call::{LocalCall, LocalEvent, LocalResponse};
use crate::context::{Context, Trace};
use crate::handler::Caller;
use crate::handler::response_sink::WriteProgress;
use crate::server::dispatch::{LocalService, StartedCall};

impl LocalCall for LocalService {
    fn name(&self) -> &str {
        &self.name
    }

    fn offers(&self, method: &str, path: &str) -> bool {
        self.router.find(method, path).is_some()
    }

    fn call(self: Arc<Self>, url: CallUrl<'_>, params: &str, context: Context, idempotent: bool) -> LocalResponse {
        let meta = CallMeta { idempotent, ..CallMeta::default() };
        self.run_local(url, params, context, meta)
    }

    fn deliver(
        self: Arc<Self>,
        url: CallUrl<'_>,
        params: &str,
        context: Context,
        event: LocalEvent<'_>,
    ) -> LocalResponse {
        let LocalEvent { id, key, attempt } = event;
        let event_key = key.map(Into::into);
        let meta = CallMeta { event: Some(id.into()), event_key, attempt, ..CallMeta::default() };
        self.run_local(url, params, context, meta)
    }

    fn notify(&self, url: CallUrl<'_>, params: &str, context: Context) -> bool {
        self.released.run_local(|| self.begin_local(url, params, context, None, CallMeta::default()))
    }
}

impl LocalService {
    fn run_local(
        self: Arc<Self>,
        url: CallUrl<'_>,
        params: &str,
        context: Context,
        meta: CallMeta<'_>,
    ) -> LocalResponse {
        let deadline = context.deadline.map(sleep_until);
        let started = self.begin_local(url, params, context, Some(Key::Number(0)), meta);
        let tasks = self.tasks.clone();
        Box::pin(tasks.scope(LocalRun { started: Some(started), deadline, service: self }))
    }

    fn begin_local(
        &self,
        url: CallUrl<'_>,
        params: &str,
        context: Context,
        key: Option<Key>,
        meta: CallMeta<'_>,
    ) -> StartedCall {
        let now = Instant::now();
        let trace = context.trace.map(Trace::child);
        let mut request = Request {
            uri: url.path.into(),
            method: url.method.into(),
            key,
            params: Some(params),
            verified: true,
            version: Version::V2,
            meta: CallMeta {
                time_left: context.deadline.map(|deadline| deadline.saturating_duration_since(now)),
                trace: trace.as_ref().map(|trace| trace.traceparent().into()),
                hops: context.hops,
                ..meta
            },
            attachment: None,
        };
        let caller = Caller {
            instance: Some(Arc::clone(&self.instance)),
            stated_name: Some(Arc::clone(&self.name)),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            peers: None,
            read_window: self.legacy_bytes,
            held_in_streams: None,
        };
        self.begin_in(&mut request, now, &caller, true, now)
    }
}

pin_project_lite::pin_project! {
    /// A call of the node to itself. All of it but its handler is one allocation.
    struct LocalRun {
        started: Option<StartedCall>,
        #[pin]
        deadline: Option<Sleep>,
        service: Arc<LocalService>,
    }

    impl PinnedDrop for LocalRun {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(started) = this.started.take()
                && tokio::runtime::Handle::try_current().is_ok()
            {
                this.service.released.finish(started);
            }
        }
    }
}

impl Future for LocalRun {
    type Output = Option<Bytes>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Bytes>> {
        let mut this = self.project();
        if let Some(started) = this.started
            && let Poll::Ready(packet) = poll_packet(started, task)
        {
            *this.started = None;
            return Poll::Ready(Some(packet.freeze()));
        }
        if let Some(deadline) = this.deadline.as_mut().as_pin_mut() {
            ready!(deadline.poll(task));
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

/// The response as a frame, without its delimiter.
fn poll_packet(started: &mut StartedCall, task: &mut TaskContext<'_>) -> Poll<BytesMut> {
    let polled = ready!(started.poll_response_packet(task));
    debug_assert_eq!(polled.progress, WriteProgress::Done, "a call without credit is not a stream");
    let mut packet = polled.packet;
    packet.truncate(packet.len().saturating_sub(protocol::DELIMITER.len()));
    Poll::Ready(packet)
}
