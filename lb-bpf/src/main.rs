//! The kernel side: ten programs on the hooks of one cgroup, and one that the agent runs.
//!
//! A program looks its frontend up, picks a backend from the block that is live, remembers the
//! choice, and rewrites the address. All policy has been resolved into rows by the agent; what is
//! decided here is only which of the rows. `maps` and `sock` hold the unsafe code: the tables, and
//! the kernel's context.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod balance;
#[cfg(target_arch = "bpf")]
mod connections;
#[cfg(target_arch = "bpf")]
mod datagrams;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod outcomes;
#[cfg(target_arch = "bpf")]
mod reverse;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod tracing;

#[cfg(target_arch = "bpf")]
mod programs {
    use crate::sock::{ReleasedSock, SockAddr, TcpCall};
    use crate::{balance, connections, outcomes, reverse};
    use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, sock_ops};
    use aya_ebpf::programs::{SockAddrContext, SockContext, SockOpsContext, TcContext};

    #[cgroup_sock_addr(connect4)]
    fn lb_connect4(ctx: SockAddrContext) -> i32 {
        balance::connect(&SockAddr::<false>::new(&ctx))
    }

    #[cgroup_sock_addr(connect6)]
    fn lb_connect6(ctx: SockAddrContext) -> i32 {
        balance::connect(&SockAddr::<true>::new(&ctx))
    }

    #[cgroup_sock_addr(sendmsg4)]
    fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
        balance::send(&SockAddr::<false>::new(&ctx))
    }

    #[cgroup_sock_addr(sendmsg6)]
    fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
        balance::send(&SockAddr::<true>::new(&ctx))
    }

    #[cgroup_sock_addr(recvmsg4)]
    fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
        reverse::received(&SockAddr::<false>::new(&ctx))
    }

    #[cgroup_sock_addr(recvmsg6)]
    fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
        reverse::received(&SockAddr::<true>::new(&ctx))
    }

    #[cgroup_sock_addr(getpeername4)]
    fn lb_getpeername4(ctx: SockAddrContext) -> i32 {
        reverse::peer_name(&SockAddr::<false>::new(&ctx))
    }

    #[cgroup_sock_addr(getpeername6)]
    fn lb_getpeername6(ctx: SockAddrContext) -> i32 {
        reverse::peer_name(&SockAddr::<true>::new(&ctx))
    }

    #[cgroup_sock(sock_release)]
    fn lb_sock_release(ctx: SockContext) -> i32 {
        connections::released(&ReleasedSock::new(&ctx))
    }

    #[sock_ops]
    fn lb_sock_ops(ctx: SockOpsContext) -> u32 {
        outcomes::told(&TcpCall::new(&ctx))
    }

    /// Run by the agent, with the cookie of a socket that closed unseen at the start of the packet.
    #[classifier]
    fn lb_collect(ctx: TcContext) -> i32 {
        if let Ok(cookie) = ctx.load::<u64>(0) {
            connections::collect(cookie);
        }
        0
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
