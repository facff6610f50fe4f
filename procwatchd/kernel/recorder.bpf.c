// SPDX-License-Identifier: MIT
//
// The recorder: what an exec made, and who sent the signal that ends a process, as the kernel has it at that moment.
//
// Facts:
// - sched_process_exec comes at the end of execve, when the new image is complete and before its EXEC is sent, in the
//   context of the process itself; a tracer that stops it there does so after [fs/exec.c, exec_binprm()].
// - signal_generate comes in the context of the sender, where there is one. The siginfo is 0 for a signal without any
//   from a process, 1 for one from the kernel [include/linux/signal_types.h]; a timer's has SI_TIMER, an interrupt's
//   whatever: then who runs at that moment has nothing to do with it.
// - mark_victim is given the thread's id up to Linux 6.7, the task since [include/trace/events/oom.h].
// - The arguments are in memory that was just written, so that reading them without waiting for a page works.
// - A program that comes again on the same CPU before it is through is left out, and counted by the kernel. Since Linux
//   7.0 whoever runs one can lose the CPU amid it, and the next one who comes there is left out
//   [kernel/trace/bpf_trace.c, __bpf_trace_run()].
//
// So there are several of the program that matters most: the next one takes what the one before has not. Each has a
// buffer of its own for each CPU.
//
// One object for all kernels: each field is found by its name when the object is loaded (CO-RE), so that the structures
// below have only the fields that are used.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

// include/uapi/linux/bpf.h
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_RB_NO_WAKEUP 1
#define BPF_RB_FORCE_WAKEUP 2
#define BPF_RB_AVAIL_DATA 0
#define BPF_RB_RING_SIZE 1

// Limits. Of longer arguments the head and the tail are taken; of longer paths, which no call could take either, nothing
// but that they are longer.
#define ARGV_BYTES 8192
#define ARGV_TAIL_BYTES 4096
#define FILENAME_BYTES 4096
#define NAME_BYTES 256
#define PATH_BYTES 4096
#define PATH_PARTS 4096
#define CGROUP_LINKS 16
#define COPIES 4
#define TAKEN_SLOTS 4096
// Room for all of that, and a power of two, which the verifier can be shown in one instruction.
#define DATA_BYTES 32768

#define COMM_BYTES 16
#define PID_MAX 4194304

#define RELOCATED __attribute__((preserve_access_index))

typedef struct {
    __u32 val;
} RELOCATED kuid_t;

typedef struct {
    __u32 val;
} RELOCATED kgid_t;

typedef struct {
    unsigned long sig[1];
} RELOCATED sigset_t;

struct qstr {
    const unsigned char *name;
} RELOCATED;

struct hlist_bl_node {
    struct hlist_bl_node **pprev;
} RELOCATED;

struct dentry {
    struct hlist_bl_node d_hash;
    struct dentry *d_parent;
    struct qstr d_name;
} RELOCATED;

struct vfsmount {
    struct dentry *mnt_root;
} RELOCATED;

struct mount {
    struct mount *mnt_parent;
    struct dentry *mnt_mountpoint;
    struct vfsmount mnt;
} RELOCATED;

struct path {
    struct vfsmount *mnt;
    struct dentry *dentry;
} RELOCATED;

struct file {
    struct path f_path;
} RELOCATED;

struct fs_struct {
    struct path pwd;
} RELOCATED;

struct mm_struct {
    unsigned long arg_start, arg_end;
    struct file *exe_file;
} RELOCATED;

struct ns_common {
    unsigned int inum;
} RELOCATED;

struct mnt_namespace {
    struct ns_common ns;
} RELOCATED;

struct nsproxy {
    struct mnt_namespace *mnt_ns;
} RELOCATED;

struct user_namespace {
    struct ns_common ns;
} RELOCATED;

struct cred {
    kuid_t uid, euid;
    kgid_t gid, egid;
    struct user_namespace *user_ns;
} RELOCATED;

struct tty_driver {
    int major, minor_start;
} RELOCATED;

struct tty_struct {
    int index;
    struct tty_driver *driver;
} RELOCATED;

struct upid {
    int nr;
} RELOCATED;

struct pid {
    struct upid numbers[1];
} RELOCATED;

enum { PIDTYPE_SID = 3 };

struct signal_struct {
    struct pid *pids[4];
    struct tty_struct *tty;
} RELOCATED;

struct sigaction {
    void *sa_handler;
} RELOCATED;

struct k_sigaction {
    struct sigaction sa;
} RELOCATED;

struct sighand_struct {
    struct k_sigaction action[64];
} RELOCATED;

struct kernfs_node {
    const char *name;
    struct kernfs_node *parent;
} RELOCATED;

// Since Linux 6.14.
struct kernfs_node___new {
    struct kernfs_node *__parent;
} RELOCATED;

struct list_head {
    struct list_head *next;
} RELOCATED;

struct cgroup_root {
    char name[64];
} RELOCATED;

struct cgroup {
    struct kernfs_node *kn;
    struct cgroup_root *root;
} RELOCATED;

struct cgrp_cset_link {
    struct cgroup *cgrp;
    struct list_head cgrp_link;
} RELOCATED;

struct css_set {
    struct cgroup *dfl_cgrp;
    struct list_head cgrp_links;
} RELOCATED;

struct task_struct {
    int pid, tgid;
    unsigned int ptrace;
    __u64 start_boottime, self_exec_id;
    struct task_struct *real_parent, *group_leader;
    struct mm_struct *mm;
    struct fs_struct *fs;
    const struct cred *real_cred;
    kuid_t loginuid;
    unsigned int sessionid;
    char comm[COMM_BYTES];
    struct signal_struct *signal;
    struct sighand_struct *sighand;
    struct nsproxy *nsproxy;
    struct css_set *cgroups;
    sigset_t blocked, real_blocked;
} RELOCATED;

struct linux_binprm {
    const char *filename;
} RELOCATED;

struct kernel_siginfo {
    int si_code;
} RELOCATED;

// What is written to the rings; kernel/recording.py has the same.

enum {
    EXE_DELETED = 1,
    EXE_CUT = 2,
    CWD_DELETED = 4,
    CWD_CUT = 8,
    CGROUP_CUT = 16,
    ARGV_UNREAD = 32,
};

// The data follow: filename, exe, cwd, cgroup, argv, tail of argv. Paths as their names, the last one first, each
// ended by NUL.
struct exec_record {
    __u64 ns;
    __u64 start_ns;
    __u32 tgid, ppid;
    __u32 uid, euid, gid, egid;
    __u32 loginuid, audit_session;
    __u32 sid, tty;
    __u32 mount_namespace, user_namespace;
    __u32 argv_bytes;
    __u32 flags;
    __u16 filename, exe, cwd, cgroup, argv, tail;
    char comm[COMM_BYTES];
    __u32 unused;
};

enum { SIGNAL = 1, OOM_VICTIM = 2 };
enum { BLOCKED = 1, TO_GROUP = 2, TRACED = 4 };

struct signal_record {
    __u64 ns;
    __u64 start_ns;
    __u64 sender_start_ns;
    __u32 kind;
    __u32 signal;
    __u32 tgid, tid;
    __u32 sender_tgid, sender_uid;
    __u32 flags;
    char sender_comm[COMM_BYTES];
    __u32 unused;
};

// From a path, or a cgroup, up to the root: what comes next, and where its name goes.
struct walk {
    struct dentry *dentry, *root;
    struct vfsmount *mnt;
    struct kernfs_node *kn;
    __u32 at, end;
    __u32 is_deleted, is_cut;
};

// The state of a walk is here and not on the stack, as the verifier would follow each value it could have.
struct scratch {
    struct walk walk;
    struct exec_record record;
    char data[DATA_BYTES];
};

// Sizes are set by whoever loads this: by the number of CPUs.
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} execs SEC(".maps");

// Those that end a process; and those that may not, of which anybody can make as many as they like.
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 18);
} signals SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 16);
} pending SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct scratch);
} scratches SEC(".maps");

// By task: the last exec that one of the copies took. Where two share a slot, one may be recorded twice.
struct taken {
    __u64 start_ns;
    __u64 exec_id;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, TAKEN_SLOTS);
    __type(key, __u32);
    __type(value, struct taken);
} takens SEC(".maps");

// Since it was loaded: recordings that had no room, and processes (not threads) that were forked.
struct {
    __u64 lost_execs;
    __u64 lost_signals;
    __u64 lost_pending;
    __u64 process_forks;
} counts;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

// Who drains a ring is woken by the event, but lets that wait a moment for others: not where the ring is half full.
static __always_inline __u64 wake_for(void *ring)
{
    __u64 size = bpf_ringbuf_query(ring, BPF_RB_RING_SIZE);

    return bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > size / 2 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline struct scratch *scratch_of(__u32 copy)
{
    __u32 n = bpf_get_smp_processor_id() * COPIES + copy;

    return bpf_map_lookup_elem(&scratches, &n);
}

// Whether there was room for the name, and it could be read.
static __always_inline int take_name(struct scratch *scratch, const void *name)
{
    __u32 at = scratch->walk.at;
    long size;

    if (at >= scratch->walk.end || at > DATA_BYTES - NAME_BYTES)
        return 0;
    size = bpf_probe_read_kernel_str(scratch->data + at, NAME_BYTES, name);
    if (size <= 0)
        return 0;
    scratch->walk.at = at + size;
    return 1;
}

static long step_up(__u32 n, __u32 *copy)
{
    struct scratch *scratch = scratch_of(*copy);
    struct dentry *dentry, *parent;

    if (!scratch)
        return 1;
    dentry = scratch->walk.dentry;
    if (dentry == scratch->walk.root) {
        struct mount *mount = (void *)scratch->walk.mnt - bpf_core_field_offset(struct mount, mnt);
        struct mount *above = BPF_CORE_READ(mount, mnt_parent);
        struct vfsmount *mnt = (void *)above + bpf_core_field_offset(struct mount, mnt);

        if (above == mount) {
            scratch->walk.is_cut = 0;
            return 1;
        }
        scratch->walk.dentry = BPF_CORE_READ(mount, mnt_mountpoint);
        scratch->walk.mnt = mnt;
        scratch->walk.root = BPF_CORE_READ(mnt, mnt_root);
        return 0;
    }
    if (!take_name(scratch, BPF_CORE_READ(dentry, d_name.name)))
        return 1;
    parent = BPF_CORE_READ(dentry, d_parent);
    if (parent == dentry) {
        // In no directory: a file of memfd_create(2).
        scratch->walk.is_cut = 0;
        scratch->walk.is_deleted = 1;
        return 1;
    }
    scratch->walk.dentry = parent;
    return 0;
}

static __always_inline void begin(struct scratch *scratch)
{
    scratch->walk.end = scratch->walk.at + PATH_BYTES;
    scratch->walk.is_cut = 1;
}

// The names on the way from a path to the root, as /proc/PID/exe would show them; gives their bytes.
static __always_inline __u16 walk_path(struct scratch *scratch, __u32 *copy, const struct path *path, __u32 deleted,
                                       __u32 cut)
{
    struct dentry *dentry = BPF_CORE_READ(path, dentry);
    struct vfsmount *mnt = BPF_CORE_READ(path, mnt);
    __u32 at = scratch->walk.at;

    begin(scratch);
    scratch->walk.dentry = dentry;
    scratch->walk.mnt = mnt;
    scratch->walk.root = BPF_CORE_READ(mnt, mnt_root);
    scratch->walk.is_deleted = dentry != BPF_CORE_READ(dentry, d_parent) && !BPF_CORE_READ(dentry, d_hash.pprev);
    bpf_loop(PATH_PARTS, step_up, copy, 0);
    scratch->record.flags |= (scratch->walk.is_deleted ? deleted : 0) | (scratch->walk.is_cut ? cut : 0);
    return scratch->walk.at - at;
}

static __always_inline struct kernfs_node *parent_of(struct kernfs_node *kn)
{
    if (bpf_core_field_exists(kn->parent))
        return BPF_CORE_READ(kn, parent);
    return BPF_CORE_READ((struct kernfs_node___new *)kn, __parent);
}

// The cgroup that systemd goes by: of v2, but in its own hierarchy where v2 is not used.
static __always_inline struct kernfs_node *cgroup_of(struct task_struct *task)
{
    struct css_set *set = BPF_CORE_READ(task, cgroups);
    struct kernfs_node *kn = BPF_CORE_READ(set, dfl_cgrp, kn);
    const struct list_head *head = (void *)set + bpf_core_field_offset(struct css_set, cgrp_links);
    struct list_head *link;

    if (parent_of(kn))
        return kn;
    link = BPF_CORE_READ(head, next);
    for (int n = 0; n < CGROUP_LINKS && link != head; n++) {
        struct cgrp_cset_link *found = (void *)link - bpf_core_field_offset(struct cgrp_cset_link, cgrp_link);
        struct cgroup *cgroup = BPF_CORE_READ(found, cgrp);
        char name[8] = {};

        bpf_probe_read_kernel_str(name, sizeof(name), &BPF_CORE_READ(cgroup, root)->name);
        if (__builtin_memcmp(name, "systemd", 8) == 0)
            return BPF_CORE_READ(cgroup, kn);
        link = BPF_CORE_READ(link, next);
    }
    return kn;
}

static long step_cgroup(__u32 n, __u32 *copy)
{
    struct scratch *scratch = scratch_of(*copy);
    struct kernfs_node *kn, *parent;

    if (!scratch)
        return 1;
    kn = scratch->walk.kn;
    parent = parent_of(kn);
    if (!parent) {
        scratch->walk.is_cut = 0;
        return 1;
    }
    if (!take_name(scratch, BPF_CORE_READ(kn, name)))
        return 1;
    scratch->walk.kn = parent;
    return 0;
}

static __always_inline __u16 walk_cgroup(struct scratch *scratch, __u32 *copy, struct task_struct *task)
{
    __u32 at = scratch->walk.at;

    begin(scratch);
    scratch->walk.kn = cgroup_of(task);
    bpf_loop(PATH_PARTS, step_cgroup, copy, 0);
    scratch->record.flags |= scratch->walk.is_cut ? CGROUP_CUT : 0;
    return scratch->walk.at - at;
}

static __always_inline __u32 tty_of(struct signal_struct *signal)
{
    struct tty_struct *tty = BPF_CORE_READ(signal, tty);
    __u32 major, minor;

    if (!tty)
        return 0;
    major = BPF_CORE_READ(tty, driver, major);
    minor = BPF_CORE_READ(tty, driver, minor_start) + BPF_CORE_READ(tty, index);
    return (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
}

static __always_inline void fill_ids(struct exec_record *record, struct task_struct *task)
{
    const struct cred *cred = BPF_CORE_READ(task, real_cred);
    struct signal_struct *signal = BPF_CORE_READ(task, signal);

    record->uid = BPF_CORE_READ(cred, uid.val);
    record->euid = BPF_CORE_READ(cred, euid.val);
    record->gid = BPF_CORE_READ(cred, gid.val);
    record->egid = BPF_CORE_READ(cred, egid.val);
    record->loginuid = record->audit_session = -1;
    if (bpf_core_field_exists(task->loginuid)) {
        record->loginuid = BPF_CORE_READ(task, loginuid.val);
        record->audit_session = BPF_CORE_READ(task, sessionid);
    }
    record->sid = BPF_CORE_READ(signal, pids[PIDTYPE_SID], numbers[0].nr);
    record->tty = tty_of(signal);
    record->mount_namespace = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
    record->user_namespace = BPF_CORE_READ(cred, user_ns, ns.inum);
}

// Gives how much there is of the data in the end.
static __always_inline __u32 take_argv(struct scratch *scratch, struct mm_struct *mm)
{
    struct exec_record *record = &scratch->record;
    unsigned long start = BPF_CORE_READ(mm, arg_start);
    __u64 size = BPF_CORE_READ(mm, arg_end) - start;
    __u32 taken = size < ARGV_BYTES ? size : ARGV_BYTES;
    __u32 at = scratch->walk.at;

    record->argv_bytes = size;
    record->argv = record->tail = 0;
    if (at > DATA_BYTES - ARGV_BYTES - ARGV_TAIL_BYTES)
        return at;
    if (bpf_probe_read_user(scratch->data + at, taken, (void *)start)) {
        record->flags |= ARGV_UNREAD;
        return at;
    }
    record->argv = taken;
    if (size <= ARGV_BYTES)
        return at + taken;
    at += ARGV_BYTES;
    if (bpf_probe_read_user(scratch->data + at, ARGV_TAIL_BYTES, (void *)(start + size - ARGV_TAIL_BYTES)))
        return at;
    record->tail = ARGV_TAIL_BYTES;
    return at + ARGV_TAIL_BYTES;
}

// Whether this exec is one that no copy took; it is taken then.
static __always_inline int take_exec(struct task_struct *task)
{
    __u32 slot = (__u32)BPF_CORE_READ(task, pid) & (TAKEN_SLOTS - 1);
    __u64 start_ns = BPF_CORE_READ(task, start_boottime), exec_id = BPF_CORE_READ(task, self_exec_id);
    struct taken *taken = bpf_map_lookup_elem(&takens, &slot);

    if (!taken || (taken->start_ns == start_ns && taken->exec_id == exec_id))
        return 0;
    taken->start_ns = start_ns;
    taken->exec_id = exec_id;
    return 1;
}

static __always_inline int record_exec(struct task_struct *task, struct linux_binprm *bprm, __u32 copy)
{
    struct scratch *scratch = scratch_of(copy);
    struct mm_struct *mm = BPF_CORE_READ(task, mm);
    struct exec_record *record;
    const struct path *path;
    __u32 data_bytes;
    long size;

    if (!scratch || !take_exec(task))
        return 0;
    record = &scratch->record;
    record->ns = bpf_ktime_get_ns();
    record->start_ns = BPF_CORE_READ(task, start_boottime);
    record->tgid = BPF_CORE_READ(task, tgid);
    record->ppid = BPF_CORE_READ(task, real_parent, tgid);
    record->flags = 0;
    fill_ids(record, task);
    BPF_CORE_READ_INTO(&record->comm, task, comm);

    size = bpf_probe_read_kernel_str(scratch->data, FILENAME_BYTES, BPF_CORE_READ(bprm, filename));
    scratch->walk.at = record->filename = size < 0 ? 0 : size;
    path = (void *)BPF_CORE_READ(mm, exe_file) + bpf_core_field_offset(struct file, f_path);
    record->exe = walk_path(scratch, &copy, path, EXE_DELETED, EXE_CUT);
    path = (void *)BPF_CORE_READ(task, fs) + bpf_core_field_offset(struct fs_struct, pwd);
    record->cwd = walk_path(scratch, &copy, path, CWD_DELETED, CWD_CUT);
    record->cgroup = walk_cgroup(scratch, &copy, task);
    data_bytes = take_argv(scratch, mm) & (DATA_BYTES - 1);
    if (bpf_ringbuf_output(&execs, record, sizeof(*record) + data_bytes, wake_for(&execs)))
        __sync_fetch_and_add(&counts.lost_execs, 1);
    return 0;
}

#define RECORD_EXEC(copy)                                                                                     \
    SEC("raw_tp/sched_process_exec")                                                                          \
    int BPF_PROG(record_exec_##copy, struct task_struct *task, int old_pid, struct linux_binprm *bprm)        \
    {                                                                                                         \
        return record_exec(task, bprm, copy);                                                                 \
    }

RECORD_EXEC(0)
RECORD_EXEC(1)
RECORD_EXEC(2)
RECORD_EXEC(3)

// include/uapi/asm-generic/signal.h: what ends no process by default.
#define BIT(signal) (1ULL << ((signal) - 1))
#define HARMLESS (BIT(17) | BIT(18) | BIT(19) | BIT(20) | BIT(21) | BIT(22) | BIT(23) | BIT(28))
#define SIGKILL 9
#define SIGNALS 64

// include/trace/events/signal.h
enum { TRACE_SIGNAL_DELIVERED = 0, TRACE_SIGNAL_LOSE_INFO = 4 };

// include/linux/signal_types.h, include/uapi/asm-generic/siginfo.h
#define SEND_SIG_NOINFO 0UL
#define SEND_SIG_PRIV 1UL
enum { SI_USER = 0, SI_QUEUE = -1, SI_TKILL = -6, SI_ASYNCNL = -60 };

// Whether whoever runs now is who sent it. Without a siginfo it is for what somebody does, but to oneself only the kernel
// sends so, as for a pipe that nobody reads. Other codes below 0 are those of timers and the like, or of nobody but a
// process that made them up.
static __always_inline int has_sender(struct kernel_siginfo *info, __u32 tgid)
{
    int code;

    if ((unsigned long)info <= SEND_SIG_PRIV)
        return (unsigned long)info == SEND_SIG_NOINFO && tgid != bpf_get_current_pid_tgid() >> 32;
    code = BPF_CORE_READ(info, si_code);
    return code == SI_USER || code == SI_QUEUE || (code <= SI_TKILL && code != SI_ASYNCNL);
}

static __always_inline void *handler_of(struct task_struct *task, int signal)
{
    void *action = (void *)BPF_CORE_READ(task, sighand) + bpf_core_field_offset(struct sighand_struct, action);
    void *handler = 0;

    action += (__u64)(signal - 1) * bpf_core_type_size(struct k_sigaction);
    action += bpf_core_field_offset(struct k_sigaction, sa.sa_handler);
    bpf_probe_read_kernel(&handler, sizeof(handler), action);
    return handler;
}

static __always_inline void send(struct signal_record *record)
{
    record->ns = bpf_ktime_get_ns();
    // Who is traced need not die of it, but of SIGKILL.
    if (record->flags & BLOCKED || (record->flags & TRACED && record->signal != SIGKILL)) {
        if (bpf_ringbuf_output(&pending, record, sizeof(*record), BPF_RB_NO_WAKEUP))
            __sync_fetch_and_add(&counts.lost_pending, 1);
    } else if (bpf_ringbuf_output(&signals, record, sizeof(*record), wake_for(&signals))) {
        __sync_fetch_and_add(&counts.lost_signals, 1);
    }
}

SEC("raw_tp/signal_generate")
int BPF_PROG(record_signal, int signal, struct kernel_siginfo *info, struct task_struct *task, int group, int result)
{
    struct signal_record record = {.kind = SIGNAL};

    if (signal < 1 || signal > SIGNALS || (HARMLESS & BIT(signal)))
        return 0;
    if (result != TRACE_SIGNAL_DELIVERED && result != TRACE_SIGNAL_LOSE_INFO)
        return 0;
    // Where sigwaitinfo(2) waits for it, it is not blocked, but was.
    if ((BPF_CORE_READ(task, blocked.sig[0]) | BPF_CORE_READ(task, real_blocked.sig[0])) & BIT(signal))
        record.flags |= BLOCKED;
    else if (handler_of(task, signal))
        return 0;
    if (group)
        record.flags |= TO_GROUP;
    if (BPF_CORE_READ(task, ptrace))
        record.flags |= TRACED;
    record.signal = signal;
    record.tgid = BPF_CORE_READ(task, tgid);
    record.tid = BPF_CORE_READ(task, pid);
    record.start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
    if (has_sender(info, record.tgid)) {
        struct task_struct *sender = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader);

        record.sender_tgid = BPF_CORE_READ(sender, tgid);
        record.sender_uid = bpf_get_current_uid_gid();
        record.sender_start_ns = BPF_CORE_READ(sender, start_boottime);
        BPF_CORE_READ_INTO(&record.sender_comm, sender, comm);
    }
    send(&record);
    return 0;
}

SEC("raw_tp/mark_victim")
int record_victim(__u64 *arguments)
{
    struct signal_record record = {.kind = OOM_VICTIM};

    if (arguments[0] <= PID_MAX)
        record.tid = arguments[0];
    else
        record.tid = BPF_CORE_READ((struct task_struct *)arguments[0], pid);
    send(&record);
    return 0;
}

SEC("raw_tp/sched_process_fork")
int BPF_PROG(count_fork, struct task_struct *parent, struct task_struct *child)
{
    if (BPF_CORE_READ(child, pid) == BPF_CORE_READ(child, tgid))
        __sync_fetch_and_add(&counts.process_forks, 1);
    return 0;
}
