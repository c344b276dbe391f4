//! The route by which gateways take commands: each opens one stream.

use futures::{Stream, StreamExt, stream};
use protocol::{PushHello, PushReport};

use crate::error::ServiceError;
use crate::handler::Params;
use crate::handler::stream::{Items, Streaming};
use crate::peers::Peers;
use crate::push::{LinkEnd, SentCommand};

/// Gives a gateway the commands for it, and takes its reports.
pub(crate) async fn push_route(
    Params(hello): Params<PushHello>,
    peers: Peers,
    reports: Items<PushReport>,
) -> Result<Streaming<impl Stream<Item = Result<SentCommand, ServiceError>>>, ServiceError> {
    let end = peers.push_links().open(hello.gateway);
    let end = end.ok_or_else(|| ServiceError::new(503, "too_many", "too many gateways have opened this stream"))?;
    Ok(Streaming(stream::try_unfold((end, reports), |(mut end, mut reports)| async move {
        let command = next(&mut end, &mut reports).await?;
        Ok(command.map(|command| (command, (end, reports))))
    })))
}

/// The next command; `None` once the gateway has gone. Meanwhile, reports are taken.
async fn next(end: &mut LinkEnd, reports: &mut Items<PushReport>) -> Result<Option<SentCommand>, ServiceError> {
    loop {
        tokio::select! {
            biased;
            report = reports.next() => match report.transpose()? {
                Some(report) => end.report(report),
                None => return Ok(None),
            },
            command = end.next() => return Ok(command),
        }
    }
}
