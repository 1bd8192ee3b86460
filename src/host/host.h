/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only door to the host: memory, threads, locks, sleeping, time. Linux today.
 *
 * Errors are -errno. Locks have a rank (lib/lock_order.def); debug builds abort on a wrong order.
 */
#ifndef HOST_HOST_H
#define HOST_HOST_H

#include <pthread.h>

#include "lib/types.h"

/* ---- memory ---- */
/* Before the first thread: malloc() keeps two heaps, not one for each thread, each of which would
 * hold some 100 KB. */
void host_heap_setup(void);
/* What was freed goes back to the host. */
void host_heap_trim(void);
/* A sealed-size memfd of that many bytes; name is for /proc. */
int host_memfd(const char *name, uint64_t bytes) MUST_CHECK;
void host_close(int fd);
/* Shared read-write mapping of a file; huge pages are asked for where the host gives them. NULL on
 * failure, errno set. */
void *host_map_fd(int fd, uint64_t off_bytes, uint64_t bytes);
/* Private (copy-on-write) mapping of a file that nobody makes shorter. NULL on failure, errno set.
 */
void *host_map_private(int fd, uint64_t off_bytes, uint64_t bytes);
/* In the place of what is mapped at `at`: a shared mapping of the file; or zero pages of the
 * process's own. */
int host_map_over(void *at, int fd, uint64_t off_bytes, uint64_t bytes) MUST_CHECK;
int host_map_zero(void *at, uint64_t bytes) MUST_CHECK;
void host_unmap(void *p, uint64_t bytes);
/* Zeroes memory of host_pages() or malloc(); whole pages of it go back to the host. */
void host_zero(void *p, uint64_t bytes);
/* Fresh zero pages of the process's own, for large structures that are mostly untouched; children
 * do not have them; freed by host_unmap(). NULL on failure. */
void *host_pages(uint64_t bytes);
/* More of them, perhaps elsewhere; p NULL: the first. NULL on failure, and p is as it was. */
void *host_pages_grow(void *p, uint64_t bytes, uint64_t to_bytes);
/* As host_pages(), but below 2 GB where there is room: its addresses fit into 32-bit immediates. */
void *host_pages_low(uint64_t bytes);

/* The file holds nothing there any more: it reads as zeroes and takes no memory. Whole pages. */
int host_punch(int fd, uint64_t off_bytes, uint64_t bytes) MUST_CHECK;

/* What was written to the file, also by its mappings, is on the disk. 0 or -errno. */
int host_sync(int fd) MUST_CHECK;

/* Reads all of it. 0, -ENODATA: the file is shorter, or -errno. */
int host_read_at(int fd, void *buf, uint64_t bytes, uint64_t off_bytes) MUST_CHECK;

/* The first run of bytes at or behind off_bytes that the file really holds: [*start, *end). False:
 * the rest is a hole. */
bool host_data_next(int fd, uint64_t off_bytes, uint64_t *start, uint64_t *end);

/*
 * In a private mapping of nr bytes at `at`: the next run of pages, from off_bytes on, that are the
 * process's own because they were written. False: there is none. Where the host does not tell, all
 * are.
 */
bool host_own_next(const void *at, uint64_t bytes, uint64_t off_bytes, uint64_t *start,
                   uint64_t *end);
/* Another descriptor of the same file, or -errno. */
int host_dup(int fd) MUST_CHECK;

/* ---- uffd.c: memory that another process brings page by page ---- */
/* A userfaultfd, or -errno. */
int host_uffd(void) MUST_CHECK;
/* Pages of anonymous memory that were never touched: whoever reads from the descriptor hears of the
 * first touch, and the thread waits until the page was put there. 0 or -errno. */
int host_uffd_add(int fd, void *at, uint64_t bytes) MUST_CHECK;

/* A code buffer, mapped twice: writable here, executable there; never both at one address. */
struct host_code {
    uint8_t *rw;
    const uint8_t *rx; /* the same bytes */
    uint64_t bytes;
};
int host_code_create(struct host_code *hc, uint64_t bytes) MUST_CHECK;
void host_code_destroy(struct host_code *hc);
/* Zeroes a part; whole pages of it go back to the host. */
void host_code_zero(struct host_code *hc, uint64_t off_bytes, uint64_t bytes);

/* A piece of memory of this process; the layout of the system's struct iovec. */
struct host_iov {
    void *base;
    size_t bytes;
};

/* ---- traps in generated code: SIGFPE and SIGILL ---- */
enum host_trap_kind { HOST_TRAP_NONE, HOST_TRAP_FP, HOST_TRAP_INSN };
struct host_trap {
    const uint8_t *at;     /* the instruction that may trap */
    const uint8_t *resume; /* where the thread goes on then, all other registers as they were */
    volatile enum host_trap_kind hit; /* what happened */
};
/* The process's handlers; counted, the first installs and the last removes them. */
int host_trap_install(void) MUST_CHECK;
void host_trap_remove(void);
/* For this thread, until the next call; NULL disarms. */
void host_trap_arm(struct host_trap *t);
/*
 * Translated code: any SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP in [lo, hi) goes on at resume
 * with all registers as they were, and `at` tells where it was. One per thread; NULL: none.
 */
struct host_trap_region {
    const uint8_t *lo, *hi;
    const uint8_t *resume;
    const uint8_t *volatile at;
    volatile int sig;
    /* Of a page fault: its address and error code (SDM 3, "Page-Fault Exception"). */
    volatile bool page_fault;
    volatile uint64_t fault_at, error;
    volatile uint64_t rcx, r10, r11; /* what resume's code may not keep */
};
void host_trap_region(struct host_trap_region *r);
/* A stack for this thread's signals, since translated code's RSP is the guest's. */
struct host_trap_stack {
    void *base;
    size_t bytes;
};
int host_trap_stack_set(struct host_trap_stack *s) MUST_CHECK;
/* After the thread has left its region for good, or ended. */
void host_trap_stack_free(struct host_trap_stack *s);

/* ---- locks: ranks ascend; a thread takes locks of ever higher rank ---- */
enum lock_rank {
#define LOCK(id, text) LOCK_##id,
#include "lib/lock_order.def"
#undef LOCK
    NR_LOCK_RANKS
};
struct lock {
    pthread_mutex_t m;
    enum lock_rank rank;
    _Atomic(uintptr_t) holder; /* thread, for assert_held() */
};
void lock_init(struct lock *l, enum lock_rank rank);
void lock_destroy(struct lock *l);
void lock_take(struct lock *l);
void lock_drop(struct lock *l);
bool lock_held(const struct lock *l); /* by this thread */
#define assert_held(l) BUG_ON(!lock_held(l))

struct cond {
    pthread_cond_t c; /* on CLOCK_MONOTONIC */
};
void cond_init(struct cond *c);
void cond_destroy(struct cond *c);
void cond_wait(struct cond *c, struct lock *l);
/* Until woken or host monotonic time; false on time-out. UINT64_MAX waits for ever. */
bool cond_wait_until(struct cond *c, struct lock *l, uint64_t mono_ns);
void cond_wake_one(struct cond *c);
void cond_wake_all(struct cond *c);

/* ---- threads: named; all signals blocked but those an instruction of the thread itself raises
 * (SIGSEGV, SIGFPE, ...) ---- */
/* What a thread is for, and so what it may do in the sandbox: see sandbox.h. */
enum host_role {
#define ROLE(id, text) HOST_##id,
#include "host/sandbox.def"
    NR_HOST_ROLES
};
struct thread {
    pthread_t t;
    bool started;
    enum host_role role;
    char name[16]; /* with the final 0: the kernel's limit */
    void *(*fn)(void *);
    void *arg;
};
/* *t stays where it is until thread_join(). */
int thread_start_as(struct thread *t, enum host_role role, const char *name, void *(*fn)(void *),
                    void *arg) MUST_CHECK;
/* HOST_HELPER: it opens nothing and reaches nobody. */
int thread_start(struct thread *t, const char *name, void *(*fn)(void *), void *arg) MUST_CHECK;
void thread_join(struct thread *t);
/*
 * Where and with which share of the host's time a thread runs. weight is that of the host's
 * scheduler relative to 100, which is a nice value of 0; above that needs a privilege
 * (CAP_SYS_NICE).
 */
#define HOST_CPUS_MAX 1024 /* what a cpu_set_t holds */
struct host_sched {
    unsigned first, nr; /* host CPUs; nr 0: any */
    unsigned weight;    /* 0: unchanged */
};
/* May the process use at least one of them? */
bool host_cpus_usable(unsigned first, unsigned nr);
/* Before the process gives its privileges up: so that host_sched_set() can still raise the weight,
 * where they allow it. */
void host_sched_allow(const struct host_sched *s);
/* For the calling thread, the idx-th of several: each gets one CPU of the range, in turns. The
 * thread's workers, forked later, have the same. 0, or -errno
 * and what could not be had. */
int host_sched_set(const struct host_sched *s, unsigned idx, const char **what) MUST_CHECK;
/*
 * How long a thread or a process with one thread has waited for a CPU. For the calling thread's own
 * use; zero-initialised it is closed, and tells 0. pid 0: the calling thread.
 */
struct host_delay {
    bool open;
    int fd;
    uint64_t last_ns;
};
void host_delay_open(struct host_delay *d, int pid); /* where it cannot be had it stays closed */
void host_delay_close(struct host_delay *d);
/* In ns; never less than before, some microseconds of work. */
uint64_t host_delay_ns(struct host_delay *d);
/* Does this host tell? */
bool host_delay_known(void);
/* Lets another thread run on this CPU, if one wants to. */
void host_yield(void);
int host_pid(void);
int host_tid(void);
/* Processor time of this process. */
uint64_t host_cpu_ns(void); /* of the process, for names */

/* ---- getting a thread out of a system call ---- */
struct host_kick {
    int pid, tid;
};
/* From now on host_kick(k) interrupts what the calling thread waits for in the kernel (EINTR, where
 * the call is not one that the kernel starts again). 0 or -errno. */
int host_kick_accept(struct host_kick *k) MUST_CHECK;
/* Any thread; of no effect once that thread has ended. */
void host_kick(const struct host_kick *k);
/* After that time the calling thread is kicked, again and again at that interval, until
 * host_kick_timer_stop(). -errno, or a handle. */
int host_kick_timer_start(const struct host_kick *k, uint64_t every_ns) MUST_CHECK;
void host_kick_timer_stop(int timer);

/* ---- sleeping on a word (futex) ---- */
/* Sleeps while *word == val, at most until mono_ns (UINT64_MAX: no limit). Spurious returns happen.
 */
void host_futex_wait(_Atomic uint32_t *word, uint32_t val, uint64_t mono_ns);
void host_futex_wake(_Atomic uint32_t *word);

/* ---- time ---- */
uint64_t host_mono_ns(void);
uint64_t host_real_ns(void); /* since 1970, UTC */
static inline uint64_t host_tsc(void)
{
    return __builtin_ia32_rdtsc();
}
/* The host TSC's frequency in kHz, or 0 when the TSC is not invariant. Measured once per call,
 * takes at most 20 ms. */
uint64_t host_tsc_khz(void);

/*
 * An alarm: one thread waits for it, any thread sets it. To set it costs no more than the system
 * call, where waking the waiting thread would be two changes of threads.
 */
struct host_alarm {
    int fd; /* -1: none */
};
int host_alarm_open(struct host_alarm *a) MUST_CHECK;
void host_alarm_close(struct host_alarm *a);
/* The one time it goes off, instead of what was set; a time that has passed: now. UINT64_MAX:
 * never. */
void host_alarm_set(struct host_alarm *a, uint64_t mono_ns);
/* Until it has gone off since the last call, or for no reason. */
void host_alarm_wait(struct host_alarm *a);

/* Makes an eventfd ready. */
void host_event_signal(int fd);

/* Random bytes for the guest (getrandom). */
void host_random(void *buf, size_t bytes);

#endif
