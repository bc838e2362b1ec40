/*
 * A disk that fails and a wall clock that is set, for one process and those it starts. Loaded with LD_PRELOAD by the tests beside it.
 *
 * Every system call that changes something is trapped by a seccomp filter, whoever makes it: libc, or a program on its own. Those that touch
 * something below JIT_FAULT_BELOW are counted on a page that the test shares (JIT_FAULT_PAGE); the ones that it names are refused.
 * CLOCK_REALTIME, which is read without a system call, is moved by as many seconds as the page says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define REG(context, n) ((context)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9}[n]])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define REG(context, n) ((context)->uc_mcontext.regs[n])
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#else
#error "the registers of this machine are not known here"
#endif

/* No call below has a sixth argument: this one says that the handler makes the call itself. */
#define OURS 0x6a697462

/* Offsets are those of page.rs. */
struct page {
    uint64_t seen;       /* calls below the folder */
    uint64_t first, last; /* the ones that are refused; first = 0 for none */
    uint64_t error;      /* the errno that they get */
    uint64_t fired;      /* how many were refused */
    int64_t offset_s;    /* how far the wall clock is moved */
    uint64_t kinds[32];  /* how many of each of `calls` */
    char what[1024];     /* the first that was refused: name and path */
};

static struct page *page;
static char below[4096];
static size_t below_length;

enum target { FD, PATH, AT, AT2 };
static const struct call {
    long number;
    const char *name;
    enum target target;
    int path;   /* which argument the path is, for PATH and AT */
    int flags;  /* which argument has O_CREAT, or -1 */
    int length; /* which argument is a length that may be written by half, or -1 */
} calls[] = {
    {SYS_write, "write", FD, 0, -1, 2},
    {SYS_pwrite64, "pwrite64", FD, 0, -1, 2},
    {SYS_writev, "writev", FD, 0, -1, -1},
    {SYS_pwritev, "pwritev", FD, 0, -1, -1},
    {SYS_fsync, "fsync", FD, 0, -1, -1},
    {SYS_fdatasync, "fdatasync", FD, 0, -1, -1},
    {SYS_ftruncate, "ftruncate", FD, 0, -1, -1},
    {SYS_fallocate, "fallocate", FD, 0, -1, -1},
    {SYS_openat, "openat", AT, 1, 2, -1},
    {SYS_renameat, "renameat", AT, 1, -1, -1},
    {SYS_renameat2, "renameat2", AT, 1, -1, -1},
    {SYS_linkat, "linkat", AT2, 3, -1, -1},
    {SYS_mkdirat, "mkdirat", AT, 1, -1, -1},
    {SYS_unlinkat, "unlinkat", AT, 1, -1, -1},
    {SYS_fchmod, "fchmod", FD, 0, -1, -1},
#ifdef SYS_open
    {SYS_open, "open", PATH, 0, 1, -1},
    {SYS_creat, "creat", PATH, 0, -1, -1},
    {SYS_rename, "rename", PATH, 0, -1, -1},
    {SYS_link, "link", PATH, 1, -1, -1},
    {SYS_mkdir, "mkdir", PATH, 0, -1, -1},
    {SYS_unlink, "unlink", PATH, 0, -1, -1},
    {SYS_chmod, "chmod", PATH, 0, -1, -1},
#endif
};
#define CALLS (int)(sizeof calls / sizeof *calls)
_Static_assert(sizeof calls / sizeof *calls <= 32, "kinds has no room");

static long make(long number, const long *a)
{
    long result = syscall(number, a[0], a[1], a[2], a[3], a[4], (long)OURS);
    return result == -1 ? -errno : result;
}

static int of_fd(int fd, char *out, size_t size)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, out, size - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return 1;
}

/* The path that a call touches; 0 where it has none. */
static int path_of(const struct call *call, const long *a, char *out, size_t size)
{
    if (call->target == FD) return of_fd((int)a[0], out, size);
    const char *path = (const char *)a[call->path];
    if (path[0] == '/') return snprintf(out, size, "%s", path) < (int)size;
    char folder[4096];
    int fd = call->target == AT ? (int)a[call->path - 1] : call->target == AT2 ? (int)a[2] : AT_FDCWD;
    if (fd == AT_FDCWD ? !getcwd(folder, sizeof folder) : !of_fd(fd, folder, sizeof folder)) return 0;
    return snprintf(out, size, "%s/%s", folder, path) < (int)size;
}

/* True when this one is refused. */
static int refused(const struct call *call, const long *a)
{
    char path[8192];
    if (call->flags >= 0 && !(a[call->flags] & O_CREAT)) return 0;
    if (!path_of(call, a, path, sizeof path) || strncmp(path, below, below_length)) return 0;
    __atomic_fetch_add(&page->kinds[call - calls], 1, __ATOMIC_SEQ_CST);
    uint64_t n = __atomic_add_fetch(&page->seen, 1, __ATOMIC_SEQ_CST);
    uint64_t first = __atomic_load_n(&page->first, __ATOMIC_SEQ_CST);
    if (!first || n < first || n > page->last) return 0;
    if (__atomic_fetch_add(&page->fired, 1, __ATOMIC_SEQ_CST) == 0)
        snprintf(page->what, sizeof page->what, "%s %.1000s", call->name, path);
    return 1;
}

static void trapped(int signal, siginfo_t *info, void *raw)
{
    ucontext_t *context = raw;
    int kept = errno;
    long a[6];
    (void)signal;
    for (int i = 0; i < 6; i++) a[i] = (long)REG(context, i);
    const struct call *call = calls;
    while (call < calls + CALLS && call->number != info->si_syscall) call++;
    long result = -ENOSYS;
    if (call == calls + CALLS || !refused(call, a)) {
        result = make(info->si_syscall, a);
    } else {
        /* A disk stops in the middle of what it writes. */
        if (call->length >= 0 && a[call->length] > 1) {
            a[call->length] /= 2;
            make(info->si_syscall, a);
        }
        result = -(long)page->error;
    }
    RESULT(context) = result;
    errno = kept;
}

__attribute__((constructor)) static void load(void)
{
    const char *at = getenv("JIT_FAULT_PAGE"), *folder = getenv("JIT_FAULT_BELOW");
    int fd = at ? open(at, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    struct page *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared == MAP_FAILED) return;
    page = shared;
    if (!folder) return;
    below_length = (size_t)snprintf(below, sizeof below, "%s/", folder);

    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    sigaction(SIGSYS, &action, NULL);

    /* The loader of a program that is started has no handler yet: what only reads is never trapped. */
    struct sock_filter filter[8 * CALLS + 6];
    int n = 0;
#define STEP(code, k) filter[n++] = (struct sock_filter)BPF_STMT(code, k)
#define SKIP(code, k, if_so, if_not) filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | code | BPF_K, k, if_so, if_not)
    STEP(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    SKIP(BPF_JEQ, ARCH, 1, 0);
    STEP(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    for (const struct call *call = calls; call < calls + CALLS; call++) {
        STEP(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        SKIP(BPF_JEQ, (unsigned)call->number, 0, call->flags >= 0 ? 6 : 4);
        if (call->flags >= 0) {
            STEP(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[call->flags]));
            SKIP(BPF_JSET, O_CREAT, 0, 3);
        }
        STEP(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5]));
        SKIP(BPF_JEQ, OURS, 1, 0);
        STEP(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
        STEP(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    STEP(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = (unsigned short)n, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("the faults cannot be installed");
        _exit(111);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int done = (int)syscall(SYS_clock_gettime, clock, now);
    if (!done && page && clock == CLOCK_REALTIME) now->tv_sec += __atomic_load_n(&page->offset_s, __ATOMIC_SEQ_CST);
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (out) *out = at.tv_sec;
    return at.tv_sec;
}
