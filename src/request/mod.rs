//! One request: what its headers say, whether it is in the gray release, which way it goes, and the lease it holds.

pub mod admission;
pub mod classify;
pub mod gray;
pub mod headers;
pub mod lease;
pub mod verdict;
pub mod view;
