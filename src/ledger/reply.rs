//! The scripts' replies under their former path; [`super::commands`] has them.

pub use super::commands::{
    Acquired, Override, Overrides as Looked, Reconciled, Recount, Renewed, Synced, acquired,
    number, overrides as looked, reconciled, renewed, swept, synced,
};
