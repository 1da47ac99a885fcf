//! The system calls that no crate here has a safe name for. The agent's only unsafe code.

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};
use nix::time::{ClockId, clock_gettime};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::time::Duration;

/// What the kernel says about a link.
pub struct LinkInfo {
    pub program_id: u32,
    /// What it is attached to: the inode number of a cgroup's directory or of a network namespace, or the index of a
    /// network device. 0 once the link is detached.
    pub target: u64,
}

/// What a program is attached to.
pub enum LinkTarget<'a> {
    /// A cgroup's directory, or a network namespace.
    File(BorrowedFd<'a>),
    /// The index of a network device (tcx, Linux 6.6).
    Device(u32),
}

/// Attaches a program, as a link that lives as long as its descriptor or its pin.
pub fn link_create(program: BorrowedFd, target: &LinkTarget, hook: bpf_attach_type) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = fd(program);
    match target {
        LinkTarget::File(file) => attr.link_create.__bindgen_anon_2.target_fd = fd(*file),
        LinkTarget::Device(index) => attr.link_create.__bindgen_anon_2.target_ifindex = *index,
    }
    attr.link_create.attach_type = hook as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Swaps the program behind a link, with no moment in between.
pub fn link_update(link: BorrowedFd, program: BorrowedFd) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = fd(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = fd(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link, whoever else still holds it.
pub fn link_detach(link: BorrowedFd) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = fd(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

pub fn link_info(link: BorrowedFd) -> io::Result<LinkInfo> {
    // SAFETY: a plain C struct of integers, for which zeroes are a value.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = fd(link);
    attr.info.info = &raw mut info as u64;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: the kernel has filled in the part that belongs to the link's type; all of them are integers.
    let target = unsafe {
        match info.type_ {
            link_type if link_type == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 => {
                info.__bindgen_anon_1.cgroup.cgroup_id
            }
            link_type if link_type == bpf_link_type::BPF_LINK_TYPE_NETNS as u32 => {
                u64::from(info.__bindgen_anon_1.netns.netns_ino)
            }
            link_type if link_type == bpf_link_type::BPF_LINK_TYPE_TCX as u32 => {
                u64::from(info.__bindgen_anon_1.tcx.ifindex)
            }
            _ => return Err(io::Error::other("a link of a type that the agent does not make")),
        }
    };
    Ok(LinkInfo { program_id: info.prog_id, target })
}

/// The ids of the programs at a network device's tcx hook.
pub fn programs_of_device(index: u32, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
    // The kernel allows 64 at most.
    let mut ids = [0_u32; 64];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = index;
    attr.query.attach_type = hook as u32;
    attr.query.prog_ids = &raw mut ids as u64;
    attr.query.__bindgen_anon_2.count = ids.len() as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: an integer, which the kernel has written.
    let count = unsafe { attr.query.__bindgen_anon_2.count } as usize;
    Ok(ids.into_iter().take(count).collect())
}

/// Runs a tc program once, on a packet that is an Ethernet header of no protocol and then the question; gives what it
/// answers.
pub fn run_program<V: aya::Pod>(program: BorrowedFd, question: &V) -> io::Result<u32> {
    const ETHERNET_HEADER: usize = 14;
    let mut packet = vec![0xff_u8; ETHERNET_HEADER + size_of::<V>()];
    // SAFETY: as many bytes as a `V` has, which are initialised: a `Pod` has no padding.
    let bytes = unsafe { std::slice::from_raw_parts(ptr::from_ref(question).cast::<u8>(), size_of::<V>()) };
    packet[ETHERNET_HEADER..].copy_from_slice(bytes);
    let mut attr = zeroed();
    attr.test.prog_fd = fd(program);
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = packet.len() as u32;
    attr.test.repeat = 1;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: an integer, which the kernel has written.
    Ok(unsafe { attr.test.retval })
}

pub fn pin(object: BorrowedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = fd(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Reads a socket's value in a socket-local storage map.
///
/// `V` must have the size of the map's values: the caller checks it when it opens the map.
pub fn storage_get<V: aya::Pod>(map: BorrowedFd, socket: BorrowedFd) -> io::Result<V> {
    // SAFETY: any bytes are a value of a `Pod`.
    let mut value: V = unsafe { std::mem::zeroed() };
    let key = socket.as_raw_fd();
    storage(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, &key, &raw mut value as u64)?;
    Ok(value)
}

/// Writes a socket's value in a socket-local storage map. `V` as in [`storage_get`].
pub fn storage_set<V: aya::Pod>(map: BorrowedFd, socket: BorrowedFd, value: &V) -> io::Result<()> {
    let key = socket.as_raw_fd();
    storage(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, &key, &raw const *value as u64)
}

/// The kernel's clock as programs read it (CLOCK_MONOTONIC), in nanoseconds.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or_default()
}

/// Puts a socket into a map of sockets whose keys are netns cookies.
pub fn socket_set(map: BorrowedFd, cookie: u64, socket: BorrowedFd) -> io::Result<()> {
    let value = socket.as_raw_fd();
    storage(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, &cookie, &raw const value as u64)
}

fn storage<K: aya::Pod>(command: bpf_cmd, map: BorrowedFd, key: &K, value: u64) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = fd(map);
    attr.__bindgen_anon_2.key = &raw const *key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value;
    bpf(command, &mut attr).map(drop)
}

/// What a program has written as a `V`; `None` when it is not of that size.
pub fn read<V: aya::Pod>(bytes: &[u8]) -> Option<V> {
    // SAFETY: as many bytes as a `V` has, wherever they lie; any bytes are a value of a `Pod`.
    (bytes.len() == size_of::<V>()).then(|| unsafe { bytes.as_ptr().cast::<V>().read_unaligned() })
}

/// The cookie of the network namespace that a socket was made in: the key of everything in the kernel.
/// Unique until the machine reboots. Linux 5.14.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `length` outlive the call, and `length` is the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of memory that the kernel uses for a socket's data, its own overhead included.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketMemory {
    /// Received, and not read.
    pub received: usize,
    /// Written, and not acknowledged.
    pub to_send: usize,
}

/// What the kernel holds for a socket. It asks about a number: an error if that is no socket. Linux 4.12.
pub fn socket_memory(socket: RawFd) -> io::Result<SocketMemory> {
    // Indices of `SO_MEMINFO` (linux/sock_diag.h).
    const RECEIVED: usize = 0;
    const TO_SEND: usize = 5;
    const BACKLOG: usize = 7;
    let mut memory = [0_u32; 9];
    let mut length = size_of_val(&memory) as libc::socklen_t;
    // SAFETY: `memory` and `length` outlive the call, and `length` is the size of `memory`.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let of = |index: usize| memory[index] as usize;
    match result {
        0 => Ok(SocketMemory { received: of(RECEIVED) + of(BACKLOG), to_send: of(TO_SEND) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a descriptor that this process was started with, and that it was told the number of.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks about a number, whatever it stands for.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the caller was told that it is its own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes of the heap that are freed, whether they were given back or not. 0 where the allocator gives them back by itself.
pub fn free_heap_bytes() -> usize {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no argument, and locks what it reads.
    let free = unsafe { libc::mallinfo2() }.fordblks;
    #[cfg(not(target_env = "gnu"))]
    let free = 0;
    free
}

/// Gives the freed pages of the whole heap back to the system; takes some milliseconds for each 100 MiB.
pub fn give_heap_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: any padding is allowed; what is in use is not touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Waits on a descriptor in a tokio runtime.
#[cfg(feature = "bpf-log")]
pub fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open, and the same, for as long as it lives.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}

/// All entries of a hash or of a trie, read so many at a time: a table that pods have filled is read in some hundredths of a second,
/// and one by one in half of one. An entry that is written or removed meanwhile may be missing, or be there twice.
pub fn map_entries<K: aya::Pod, V: aya::Pod>(map: BorrowedFd) -> io::Result<Vec<(K, V)>> {
    // More than any bucket of a hash has.
    const BATCH: usize = 4096;
    let mut entries = Vec::new();
    // Where the kernel goes on: the index of a bucket, or a key.
    let mut place = vec![0_u64; size_of::<K>().div_ceil(8).max(1)];
    let mut next = place.clone();
    let (mut keys, mut values) = (Vec::<K>::with_capacity(BATCH), Vec::<V>::with_capacity(BATCH));
    let mut has_begun = false;
    loop {
        keys.clear();
        values.clear();
        let mut attr = zeroed();
        attr.batch.in_batch = if has_begun { place.as_ptr() as u64 } else { 0 };
        attr.batch.out_batch = next.as_mut_ptr() as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = BATCH as u32;
        attr.batch.map_fd = fd(map);
        let is_last = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel has written so many keys and values, for which there is room, and any bytes are one of either
        // (`Pod`). It says the number also where it has come to the end.
        unsafe {
            let count = (attr.batch.count as usize).min(BATCH);
            keys.set_len(count);
            values.set_len(count);
        }
        entries.extend(keys.iter().copied().zip(values.iter().copied()));
        if is_last {
            return Ok(entries);
        }
        std::mem::swap(&mut place, &mut next);
        has_begun = true;
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain C structs of integers, for which zeroes are a value.
    unsafe { std::mem::zeroed() }
}

fn fd(fd: BorrowedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the commands this is called with answer a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is of the size told, and what it points to outlives the call (see the callers).
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw mut *attr, size_of::<bpf_attr>())
    };
    // A descriptor or 0: it fits.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
