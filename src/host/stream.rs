//! The name by which a gRPC stream is opened.

/// A `GrpcService` message that names an Envoy cluster. The host first reads the name it is given as such a message, and
/// some plain names (`email`) are one by accident, which ends Envoy. Names are at most 125 bytes of ASCII by configuration.
pub fn grpc_service(cluster: &str) -> Vec<u8> {
    let length = u8::try_from(cluster.len()).unwrap_or(0);
    let mut message = vec![0x0a, length.saturating_add(2), 0x0a, length];
    message.extend_from_slice(cluster.as_bytes());
    message
}
