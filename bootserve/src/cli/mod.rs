//! Commands that are more than a few lines.

pub mod machine;
pub mod node;
mod node_edit;
mod state;
pub mod token;
