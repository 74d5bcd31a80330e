//! The system calls that no safe API offers. All unsafe code of init is here.

mod allocator;
mod interface;
mod loop_device;
mod mapping;
mod packet_socket;

pub use allocator::give_back_large_blocks;
pub use interface::{Route, add_route, remove_address, set_address, set_up};
pub use loop_device::{attach_loop_device, free_loop_device};
pub use mapping::map;
pub use packet_socket::PacketSocket;
