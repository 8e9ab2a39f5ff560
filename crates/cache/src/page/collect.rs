//! The body of an answer as one piece, if it is short enough and comes to its end.

use std::{
    error::Error as StdError,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    web::Bytes,
};
use bytes::BytesMut;

/// How long a body is waited for. What takes longer is perhaps not meant to end, and reaches its client as it comes.
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of a body.
pub(super) enum Collected {
    Whole(Bytes),
    /// It is too long, takes too long or broke off: what has come of it, and the rest as it comes.
    Rest(BoxBody),
}

/// Collects a body of at most `limit` bytes.
pub(super) async fn collect<B: MessageBody + 'static>(body: B, limit: usize) -> Collected {
    let body = match body.try_into_bytes() {
        Ok(whole) => return Collected::Whole(whole),
        Err(body) => body,
    };
    let size = body.size();
    let mut body = Box::pin(body);
    let mut collected = BytesMut::new();
    let ended = async {
        loop {
            match std::future::poll_fn(|context| body.as_mut().poll_next(context)).await {
                None => return Ok(()),
                Some(Ok(chunk)) => {
                    collected.extend_from_slice(&chunk);
                    if collected.len() > limit {
                        return Err(None);
                    }
                }
                Some(Err(error)) => return Err(Some(error.into())),
            }
        }
    };
    let failure = match tokio::time::timeout(PATIENCE, ended).await {
        // Fewer bytes than were announced are not all of them.
        Ok(Ok(())) => match size {
            BodySize::Sized(announced) if announced != collected.len() as u64 => Some("the body broke off".into()),
            _ => return Collected::Whole(collected.freeze()),
        },
        Ok(Err(failure)) => failure,
        Err(_) => None,
    };
    let begun = (!collected.is_empty()).then(|| collected.freeze());
    Collected::Rest(BoxBody::new(Continued { size, begun, failure, rest: body }))
}

type Failure = Box<dyn StdError>;

/// A body of which a part has been read.
struct Continued<B> {
    size: BodySize,
    begun: Option<Bytes>,
    failure: Option<Failure>,
    rest: Pin<Box<B>>,
}

impl<B: MessageBody> MessageBody for Continued<B> {
    type Error = Failure;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(begun) = self.begun.take() {
            return Poll::Ready(Some(Ok(begun)));
        }
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        self.rest.as_mut().poll_next(context).map(|chunk| chunk.map(|chunk| chunk.map_err(Into::into)))
    }
}
