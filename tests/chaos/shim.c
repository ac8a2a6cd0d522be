/* Preloaded into a process, counts, records, fails or dies at its changes to the files below one folder.
 *
 * Nothing happens until `shim_arm`. An operation is one call that changes something below the folder: its number
 * is its place in the order in which they took effect, kept by a lock over the call and its record. Some libraries
 * change names without the C library (Rust's tempfile, in safetensors): a filter in the kernel turns such system
 * calls into a signal, whose handler makes the same call through the C library, and so through here.
 *
 * record    int32 kind, result, flags; int64 offset; uint32 lengths of path, other, data; then these three
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

enum { OPEN, WRITE, TRUNCATE, FSYNC, RENAME, LINK, SYMLINK, UNLINK, MKDIR, RMDIR, MARK };
enum { RECORD, KILL, TEAR, FAIL_ONCE, FAIL_FROM };

static char root[4096];
static size_t root_length;
static int armed, mode, failure, log_fd = -1;
static unsigned kinds;
static long target, count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void trap_others(void);

/* kinds_: bit set of the kinds that count; log: a file to record into, or "". */
void shim_arm(const char *folder, int mode_, long target_, int failure_, unsigned kinds_, const char *log) {
  snprintf(root, sizeof root, "%s", folder);
  root_length = strlen(root);
  mode = mode_, target = target_, failure = failure_, kinds = kinds_, count = 0;
  if (*log) log_fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  trap_others();
  armed = 1;
}
void shim_disarm(void) { armed = 0; }
long shim_count(void) { return count; }

static int inside(const char *path) {
  return armed && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static void of_fd(int fd, char *out) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(name, out, 4095);
  out[length < 0 ? 0 : length] = 0;
}

static void of_path(int dir, const char *path, char *out) {
  char base[4096];
  if (path[0] == '/') {
    snprintf(out, 4096, "%s", path);
    return;
  }
  if (dir == AT_FDCWD) {
    if (!getcwd(base, sizeof base)) base[0] = 0;
  } else {
    of_fd(dir, base);
  }
  snprintf(out, 4096, "%.2040s/%.2040s", base, path);
}

/* Called with the lock held. Whether the operation shall fail; does not return if the process shall die before it.
 * `tear` tells a write to do half of itself first. */
static int meet(int kind, int *tear) {
  *tear = 0;
  if (!(kinds >> kind & 1)) return 0;
  long number = count++;
  if ((mode == KILL && number == target) || (mode == TEAR && number == target && kind != WRITE)) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  *tear = mode == TEAR && number == target;
  if ((mode == FAIL_ONCE && number == target) || (mode == FAIL_FROM && number >= target)) {
    errno = failure;
    return 1;
  }
  return 0;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static void put(int kind, int result, int flags, int64_t offset, const char *path, const char *other,
                const void *data, uint32_t length) {
  if (log_fd < 0 || result < 0) return;
  int saved = errno;
  int32_t head[3] = {kind, result, flags};
  uint32_t lengths[3] = {strlen(path), strlen(other), length};
  struct iovec parts[6] = {{head, sizeof head},     {&offset, sizeof offset}, {lengths, sizeof lengths},
                           {(void *)path, lengths[0]}, {(void *)other, lengths[1]}, {(void *)data, length}};
  if (REAL(writev)(log_fd, parts, 6) < 0) abort();
  errno = saved;
}

void shim_mark(const char *text) {
  pthread_mutex_lock(&lock);
  put(MARK, 0, 0, 0, text, "", "", 0);
  pthread_mutex_unlock(&lock);
}

#define GUARDED(kind, path, other, flags, call)              \
  int tear_, result_ = -1;                                   \
  pthread_mutex_lock(&lock);                                 \
  if (!meet(kind, &tear_)) {                                 \
    result_ = (call);                                        \
    put(kind, result_, flags, 0, path, other, "", 0);        \
  }                                                          \
  pthread_mutex_unlock(&lock);                               \
  return result_

/* -- opening ------------------------------------------------------------------------------------------------- */

/* The record's offset tells whether the file was there before. */
static int opened(int dir, const char *path, int flags, mode_t access_mode) {
  char full[4096];
  if (armed) of_path(dir, path, full);
  if (!armed || !inside(full) || !((flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC))))
    return REAL(openat)(dir, path, flags, access_mode);
  int tear, result = -1;
  pthread_mutex_lock(&lock);
  if (!meet(OPEN, &tear)) {
    struct stat found;
    int there = !fstatat(dir, path, &found, 0);
    result = REAL(openat)(dir, path, flags, access_mode);
    put(OPEN, result, flags, there, full, "", "", 0);
  }
  pthread_mutex_unlock(&lock);
  return result;
}

#define ACCESS_MODE                                  \
  va_list rest;                                      \
  va_start(rest, flags);                             \
  mode_t access_mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
  va_end(rest)

int open(const char *path, int flags, ...) {
  ACCESS_MODE;
  return opened(AT_FDCWD, path, flags, access_mode);
}
int open64(const char *path, int flags, ...) {
  ACCESS_MODE;
  return opened(AT_FDCWD, path, flags, access_mode);
}
int openat(int dir, const char *path, int flags, ...) {
  ACCESS_MODE;
  return opened(dir, path, flags, access_mode);
}
int openat64(int dir, const char *path, int flags, ...) {
  ACCESS_MODE;
  return opened(dir, path, flags, access_mode);
}
int creat(const char *path, mode_t access_mode) {
  return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, access_mode);
}
int creat64(const char *path, mode_t access_mode) {
  return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, access_mode);
}

/* -- content ------------------------------------------------------------------------------------------------- */

static int64_t place(int fd) {
  struct stat found;
  if (fcntl(fd, F_GETFL) & O_APPEND) return fstat(fd, &found) ? 0 : found.st_size;
  return lseek(fd, 0, SEEK_CUR);
}

/* Called without the lock. offset < 0: where the file stands. */
static ssize_t written(int fd, const char *path, const void *data, size_t length, int64_t offset) {
  int tear;
  ssize_t result = -1;
  pthread_mutex_lock(&lock);
  if (!meet(WRITE, &tear)) {
    int64_t at = offset < 0 ? place(fd) : offset;
    size_t wanted = tear ? length / 2 : length;
    result = offset < 0 ? REAL(write)(fd, data, wanted) : REAL(pwrite)(fd, data, wanted, offset);
    put(WRITE, result, 0, at, path, "", data, result < 0 ? 0 : result);
    if (tear) die();
  }
  pthread_mutex_unlock(&lock);
  return result;
}

#define FILE_OF(fd)          \
  char path[4096];           \
  if (armed) of_fd(fd, path); \
  if (armed && inside(path))

ssize_t write(int fd, const void *data, size_t length) {
  FILE_OF(fd) return written(fd, path, data, length, -1);
  return REAL(write)(fd, data, length);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
  FILE_OF(fd) return written(fd, path, data, length, offset);
  return REAL(pwrite)(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
  FILE_OF(fd) return written(fd, path, data, length, offset);
  return REAL(pwrite64)(fd, data, length, offset);
}
ssize_t writev(int fd, const struct iovec *parts, int number) {
  FILE_OF(fd) {
    size_t length = 0;
    for (int i = 0; i < number; i++) length += parts[i].iov_len;
    char *whole = malloc(length + 1), *end = whole;
    for (int i = 0; i < number; i++) end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    ssize_t result = written(fd, path, whole, length, -1);
    free(whole);
    return result;
  }
  return REAL(writev)(fd, parts, number);
}

/* Copies by hand, so that what was copied can be recorded. */
static ssize_t copied(int to, const char *path, int from, off64_t *from_offset, off64_t *to_offset, size_t length) {
  static char buffer[1 << 20];
  size_t wanted = length < sizeof buffer ? length : sizeof buffer;
  ssize_t got = from_offset ? pread(from, buffer, wanted, *from_offset) : read(from, buffer, wanted);
  if (got <= 0) return got;
  ssize_t result = written(to, path, buffer, got, to_offset ? *to_offset : -1);
  if (result > 0 && from_offset) *from_offset += result;
  if (result > 0 && to_offset) *to_offset += result;
  return result;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t length) {
  FILE_OF(to) return copied(to, path, from, offset, NULL, length);
  return REAL(sendfile)(to, from, offset, length);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) {
  FILE_OF(to) return copied(to, path, from, offset, NULL, length);
  return REAL(sendfile64)(to, from, offset, length);
}
ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t length, unsigned flags) {
  FILE_OF(to) return copied(to, path, from, from_offset, to_offset, length);
  return REAL(copy_file_range)(from, from_offset, to, to_offset, length, flags);
}

static int cut(int fd, const char *path, int64_t length) {
  int tear, result = -1;
  pthread_mutex_lock(&lock);
  if (!meet(TRUNCATE, &tear)) {
    result = REAL(ftruncate)(fd, length);
    put(TRUNCATE, result, 0, length, path, "", "", 0);
  }
  pthread_mutex_unlock(&lock);
  return result;
}
int ftruncate(int fd, off_t length) {
  FILE_OF(fd) return cut(fd, path, length);
  return REAL(ftruncate)(fd, length);
}
int ftruncate64(int fd, off64_t length) {
  FILE_OF(fd) return cut(fd, path, length);
  return REAL(ftruncate64)(fd, length);
}
int fsync(int fd) {
  FILE_OF(fd) { GUARDED(FSYNC, path, "", 0, REAL(fsync)(fd)); }
  return REAL(fsync)(fd);
}
int fdatasync(int fd) {
  FILE_OF(fd) { GUARDED(FSYNC, path, "", 0, REAL(fdatasync)(fd)); }
  return REAL(fdatasync)(fd);
}

/* -- names --------------------------------------------------------------------------------------------------- */

#define PATH_OF(dir, name)                     \
  char path[4096];                             \
  if (armed) of_path(dir, name, path);         \
  if (armed && inside(path))
#define PATHS_OF(old_dir, old, new_dir, new)   \
  char path[4096], other[4096];                \
  if (armed) of_path(old_dir, old, path), of_path(new_dir, new, other); \
  if (armed && (inside(path) || inside(other)))

int rename(const char *old, const char *new) {
  PATHS_OF(AT_FDCWD, old, AT_FDCWD, new) { GUARDED(RENAME, path, other, 0, REAL(rename)(old, new)); }
  return REAL(rename)(old, new);
}
int renameat(int old_dir, const char *old, int new_dir, const char *new) {
  PATHS_OF(old_dir, old, new_dir, new) { GUARDED(RENAME, path, other, 0, REAL(renameat)(old_dir, old, new_dir, new)); }
  return REAL(renameat)(old_dir, old, new_dir, new);
}
int renameat2(int old_dir, const char *old, int new_dir, const char *new, unsigned flags) {
  PATHS_OF(old_dir, old, new_dir, new) {
    GUARDED(RENAME, path, other, flags, REAL(renameat2)(old_dir, old, new_dir, new, flags));
  }
  return REAL(renameat2)(old_dir, old, new_dir, new, flags);
}
int link(const char *old, const char *new) {
  PATHS_OF(AT_FDCWD, old, AT_FDCWD, new) { GUARDED(LINK, path, other, 0, REAL(link)(old, new)); }
  return REAL(link)(old, new);
}
int linkat(int old_dir, const char *old, int new_dir, const char *new, int flags) {
  PATHS_OF(old_dir, old, new_dir, new) { GUARDED(LINK, path, other, 0, REAL(linkat)(old_dir, old, new_dir, new, flags)); }
  return REAL(linkat)(old_dir, old, new_dir, new, flags);
}
int symlink(const char *to, const char *name) {
  PATH_OF(AT_FDCWD, name) { GUARDED(SYMLINK, path, to, 0, REAL(symlink)(to, name)); }
  return REAL(symlink)(to, name);
}
int symlinkat(const char *to, int dir, const char *name) {
  PATH_OF(dir, name) { GUARDED(SYMLINK, path, to, 0, REAL(symlinkat)(to, dir, name)); }
  return REAL(symlinkat)(to, dir, name);
}
int unlink(const char *name) {
  PATH_OF(AT_FDCWD, name) { GUARDED(UNLINK, path, "", 0, REAL(unlink)(name)); }
  return REAL(unlink)(name);
}
int rmdir(const char *name) {
  PATH_OF(AT_FDCWD, name) { GUARDED(RMDIR, path, "", 0, REAL(rmdir)(name)); }
  return REAL(rmdir)(name);
}
int unlinkat(int dir, const char *name, int flags) {
  PATH_OF(dir, name) { GUARDED(flags & AT_REMOVEDIR ? RMDIR : UNLINK, path, "", 0, REAL(unlinkat)(dir, name, flags)); }
  return REAL(unlinkat)(dir, name, flags);
}
int mkdir(const char *name, mode_t access_mode) {
  PATH_OF(AT_FDCWD, name) { GUARDED(MKDIR, path, "", 0, REAL(mkdir)(name, access_mode)); }
  return REAL(mkdir)(name, access_mode);
}
int mkdirat(int dir, const char *name, mode_t access_mode) {
  PATH_OF(dir, name) { GUARDED(MKDIR, path, "", 0, REAL(mkdirat)(dir, name, access_mode)); }
  return REAL(mkdirat)(dir, name, access_mode);
}

/* -- system calls that pass the C library by ----------------------------------------------------------------- */

#if defined(__x86_64__)
#define RESULT(u) (u)->uc_mcontext.gregs[REG_RAX]
#define ARGUMENT(u, n) (u)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8}[n]]
#elif defined(__aarch64__)
#define RESULT(u) (u)->uc_mcontext.regs[0]
#define ARGUMENT(u, n) (u)->uc_mcontext.regs[n]
#endif

static const int trapped[] = {
#ifdef SYS_rename
    SYS_rename, SYS_link, SYS_symlink, SYS_unlink, SYS_rmdir, SYS_mkdir, SYS_renameat,
#endif
    SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_unlinkat, SYS_mkdirat, SYS_ftruncate, SYS_fsync, SYS_fdatasync,
};
#define TRAPPED (sizeof trapped / sizeof *trapped)

static void on_trap(int signum, siginfo_t *info, void *context) {
  (void)signum;
  ucontext_t *u = context;
  int saved = errno;
  long a = ARGUMENT(u, 0), b = ARGUMENT(u, 1), c = ARGUMENT(u, 2), d = ARGUMENT(u, 3), e = ARGUMENT(u, 4), result;
#define TEXT(x) ((const char *)(x))
  switch (info->si_syscall) {
#ifdef SYS_rename
    case SYS_rename: result = rename(TEXT(a), TEXT(b)); break;
    case SYS_link: result = link(TEXT(a), TEXT(b)); break;
    case SYS_symlink: result = symlink(TEXT(a), TEXT(b)); break;
    case SYS_unlink: result = unlink(TEXT(a)); break;
    case SYS_rmdir: result = rmdir(TEXT(a)); break;
    case SYS_mkdir: result = mkdir(TEXT(a), b); break;
    case SYS_renameat: result = renameat(a, TEXT(b), c, TEXT(d)); break;
#endif
    case SYS_renameat2: result = renameat2(a, TEXT(b), c, TEXT(d), e); break;
    case SYS_linkat: result = linkat(a, TEXT(b), c, TEXT(d), e); break;
    case SYS_symlinkat: result = symlinkat(TEXT(a), b, TEXT(c)); break;
    case SYS_unlinkat: result = unlinkat(a, TEXT(b), c); break;
    case SYS_mkdirat: result = mkdirat(a, TEXT(b), c); break;
    case SYS_ftruncate: result = ftruncate(a, b); break;
    case SYS_fsync: result = fsync(a); break;
    case SYS_fdatasync: result = fdatasync(a); break;
    default: abort();
  }
  RESULT(u) = result < 0 ? -errno : result;
  errno = saved;
}

static int trapping;

/* Lightning puts back every handler that it has found; Python had not heard of this one. */
int sigaction(int signum, const struct sigaction *action, struct sigaction *old) {
  if (signum == SIGSYS && trapping) return 0;
  return REAL(sigaction)(signum, action, old);
}

static uintptr_t libc_start, libc_end;

static int find_libc(struct dl_phdr_info *info, size_t size, void *inside_it) {
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, end = start + info->dlpi_phdr[i].p_memsz;
    if (info->dlpi_phdr[i].p_type == PT_LOAD && start <= (uintptr_t)inside_it && (uintptr_t)inside_it < end)
      libc_start = start, libc_end = end;
  }
  return 0;
}

/* Calls of these numbers trap unless they come from the C library. */
static void trap_others(void) {
  if (trapping) return;
  dl_iterate_phdr(find_libc, dlsym(RTLD_NEXT, "renameat"));
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSYS, &action, NULL);
  trapping = 1;
  uint32_t high = libc_start >> 32, next = libc_end >> 32, low = libc_start, end = libc_end;
  struct sock_filter program[TRAPPED + 16];
  int n = 0;
#define EMIT(...) program[n++] = (struct sock_filter)__VA_ARGS__
#define LOAD(field) EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field)))
  LOAD(nr);
  for (size_t i = 0; i < TRAPPED; i++)
    EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, trapped[i], TRAPPED - i, 0));
  EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  /* Little-endian: the upper half of the instruction's address lies behind the lower. */
  EMIT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4));
  EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high, 2, 0));
  EMIT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, next, 4, 0));
  EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
  LOAD(instruction_pointer);
  EMIT(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, low, 0, 3));
  if (high != next) {
    EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  } else {
    EMIT(BPF_JUMP(BPF_JMP | BPF_JA, 0, 0, 0));
  }
  LOAD(instruction_pointer);
  EMIT(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, end, 0, 1));
  EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
  EMIT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  struct sock_fprog filter = {n, program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) abort();
}
