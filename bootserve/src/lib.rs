//! bootserve tells the machines of a private network what to boot, and hands it to them.
//!
//! [`policy::decide`] says what a machine boots; [`dhcp`], [`tftp`] and [`http`] render that decision for firmware,
//! boot programs and iPXE. [`config`] is what the admin wants, [`inventory`] the part of it that is of nodes by the hundred, [`store`] what imagebuild published, [`images`] who boots which of it, [`in_use`] what of it must stay, [`overlay`] what single
//! nodes get besides, [`events`] what
//! became of it and [`status`] what that means; [`dns`] gives them names, [`power`] switches them on and off, and [`export`] writes all of this for other programs. [`serve`] puts them together.

pub mod api_socket;
pub mod arch;
pub mod check;
pub mod clock;
pub mod compat;
pub mod config;
pub mod consoles;
pub mod database;
pub mod dhcp;
pub mod discovery;
pub mod dns;
pub mod edits;
pub mod events;
pub mod explain;
pub mod export;
pub mod http;
pub mod images;
pub mod in_use;
pub mod inventory;
pub mod live;
pub mod metrics;
pub mod nbp;
pub mod notify;
pub mod overlay;
pub mod passed;
pub mod policy;
pub mod power;
pub mod privileges;
pub mod radv;
pub mod reload;
pub mod script;
pub mod secrets;
pub mod serve;
pub mod sockets;
pub mod sources;
pub mod status;
pub mod store;
pub mod tftp;
pub mod timestamp;
pub mod tokens;
