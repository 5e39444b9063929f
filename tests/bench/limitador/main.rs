//! A rate-limit service for Envoy, its decisions by the library `limitador`:
//! `bench-limitador ADDRESS memory|redis|cached REDIS_URL`.

use std::collections::HashMap;
use std::error::Error;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use limitador::limit::{Context, Limit};
use limitador::storage::redis::{AsyncRedisStorage, CachedRedisStorage};
use limitador::{AsyncRateLimiter, RateLimiter};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

enum Limiter {
    Memory(RateLimiter),
    Redis(AsyncRateLimiter),
}

#[tonic::async_trait]
impl RateLimitService for Limiter {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let descriptors = request.descriptors.into_iter().map(|descriptor| {
            let entries = descriptor.entries.into_iter();
            entries.map(|entry| (entry.key, entry.value)).collect()
        });
        let descriptors: Vec<HashMap<String, String>> = descriptors.collect();
        let mut context = Context::default();
        context.list_binding("descriptors".into(), descriptors);
        let domain = request.domain.into();
        let hits = u64::from(request.hits_addend.max(1));
        let result = match self {
            Limiter::Memory(limiter) => {
                limiter.check_rate_limited_and_update(&domain, &context, hits)
            }
            Limiter::Redis(limiter) => {
                let result = limiter.check_rate_limited_and_update(&domain, &context, hits);
                result.await
            }
        };
        let result = result.map_err(|error| Status::unavailable(error.to_string()))?;
        let code = if result.limited {
            Code::OverLimit
        } else {
            Code::Ok
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            ..RateLimitResponse::default()
        }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("ADDRESS STORAGE REDIS_URL");
    let (address, storage, redis) = (next()?, next()?, next()?);
    // So many that nobody is refused, each account by itself.
    let account = "descriptors[0].account".try_into()?;
    let limit = Limit::new("bench", 1_000_000_000, 60, [], [account]);
    let limiter = match storage.as_str() {
        "memory" => Limiter::Memory(RateLimiter::new(10_000)),
        "redis" => {
            let storage = AsyncRedisStorage::new(&redis).await?;
            Limiter::Redis(AsyncRateLimiter::new_with_storage(Box::new(storage)))
        }
        "cached" => {
            let storage = CachedRedisStorage::new(&redis).await?;
            Limiter::Redis(AsyncRateLimiter::new_with_storage(Box::new(storage)))
        }
        other => return Err(format!("{other} is no storage").into()),
    };
    match &limiter {
        Limiter::Memory(limiter) => limiter.add_limit(limit),
        Limiter::Redis(limiter) => limiter.add_limit(limit),
    };
    Server::builder()
        .tcp_nodelay(true)
        .add_service(RateLimitServiceServer::new(limiter))
        .serve(address.parse()?)
        .await?;
    Ok(())
}
