//! Commands that are more than a few lines.

pub mod machine;
pub mod node;
mod node_edit;
pub mod overlay;
pub mod power;
mod state;
pub mod token;
