/* Lets one call on a file fail, once: preloaded into every process of a run.

   All processes map one file, PROBEKIT_FAULT_FILE (see inject.py, which makes it): in it are the
   folders whose files count, which call is to fail and with what, and a record of each call.
   A call counts if its file lies below one of the folders. Whose file a descriptor is, the kernel
   tells (/proc/self/fd), so descriptors that are inherited or handed on are right too.

   Not seen: what the C library calls inside itself (fread after fopen, so numpy.fromfile), a
   statically linked program, and reading through a mapping once it is made.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* As inject.py packs and unpacks them. */
enum kind { READS, WRITES, LOOKS, KINDS };
struct record { int32_t kind, pid; char call[24], path[224]; };
struct state {
    _Atomic int32_t on;          /* whether calls are counted */
    int32_t kind, error;         /* of the call that fails */
    _Atomic int32_t failed;      /* how many have: at most one */
    int64_t k;                   /* which of its kind; from 1 */
    _Atomic int64_t counts[KINDS], records;
    char folders[3][1024];       /* with a slash at the end, or empty */
    char room[968];
    struct record record[1 << 16];
};

static struct state *state;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }
#define REAL(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) next = real(#name)

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("PROBEKIT_FAULT_FILE");
    if (!path) return;
    /* By the functions below, which let everything through as long as there is no state. */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) state = at;
}

/* The error that this call is to end with, or 0. */
static int count(enum kind kind, const char *call, const char *path) {
    int of_the_run = 0;
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(state->folders[i]);
        /* The folder itself counts too. */
        if (n && !strncmp(path, state->folders[i], n - 1) &&
            (path[n - 1] == '/' || !path[n - 1])) of_the_run = 1;
    }
    if (!of_the_run) return 0;
    int64_t k = atomic_fetch_add(&state->counts[kind], 1) + 1;
    int64_t i = atomic_fetch_add(&state->records, 1);
    if (i < (int64_t)(sizeof state->record / sizeof *state->record)) {
        struct record *record = &state->record[i];
        record->kind = kind;
        record->pid = getpid();
        snprintf(record->call, sizeof record->call, "%s", call);
        snprintf(record->path, sizeof record->path, "%s", path);
    }
    if ((int32_t)kind != state->kind || k != state->k) return 0;
    atomic_fetch_add(&state->failed, 1);
    return state->error;
}

static int fails_fd(enum kind kind, const char *call, int fd) {
    char link[64], path[PATH_MAX];
    if (!state || !state->on || fd < 0) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = before;
    if (n <= 0 || *path != '/') return 0;
    path[n] = 0;
    return count(kind, call, path);
}

static int fails_at(enum kind kind, const char *call, int folder, const char *path) {
    char link[64], whole[PATH_MAX];
    if (!state || !state->on || !path) return 0;
    if (*path == '/') return count(kind, call, path);
    int before = errno;
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, whole, sizeof whole - 1);
    errno = before;
    if (n <= 0) return 0;
    snprintf(whole + n, sizeof whole - n, *path ? "/%s" : "%s", path);
    return count(kind, call, whole);
}

#define FAIL(error, value) \
    do { int e = (error); if (e) { errno = e; return value; } } while (0)

/* Opening: for reading a read, else a write; a folder is looked at. */

static enum kind of_flags(int flags) {
    if (flags & O_DIRECTORY) return LOOKS;
    return (flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT) ? READS : WRITES;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); \
    }

#define OPEN(name) int name(const char *path, int flags, ...) { \
    REAL(int, name, const char *, int, ...); \
    MODE(flags) \
    FAIL(fails_at(of_flags(flags), "open", AT_FDCWD, path), -1); \
    return next(path, flags, mode); }
#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    REAL(int, name, int, const char *, int, ...); \
    MODE(flags) \
    FAIL(fails_at(of_flags(flags), "open", folder, path), -1); \
    return next(folder, path, flags, mode); }
#define FOPEN(name) FILE *name(const char *path, const char *mode) { \
    REAL(FILE *, name, const char *, const char *); \
    FAIL(fails_at(*mode == 'r' && !strchr(mode, '+') ? READS : WRITES, "open", AT_FDCWD, path), \
         NULL); \
    return next(path, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) FOPEN(fopen) FOPEN(fopen64)
/* What the compiler makes of open(path, flags) in fortified programs. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int folder, const char *path, int flags) { return openat(folder, path, flags); }
int __openat64_2(int folder, const char *path, int flags) { return openat64(folder, path, flags); }
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* CALL wraps a function whose parameters are given in pairs; ON says what it fails for. */

#define CALL(result, bad, name, parameters, arguments, error) result name parameters { \
    static result (*next) parameters; \
    if (!next) next = real(#name); \
    FAIL(error, bad); \
    return next arguments; }
#define FD(kind, name) fails_fd(kind, #name, fd)
#define PATH(kind, name) fails_at(kind, #name, AT_FDCWD, path)
#define AT(kind, name) fails_at(kind, #name, folder, path)

CALL(ssize_t, -1, read, (int fd, void *at, size_t n), (fd, at, n), FD(READS, read))
CALL(ssize_t, -1, __read_chk, (int fd, void *at, size_t n, size_t room), (fd, at, n, room),
     FD(READS, read))
CALL(ssize_t, -1, pread, (int fd, void *at, size_t n, off_t from), (fd, at, n, from),
     FD(READS, pread))
CALL(ssize_t, -1, pread64, (int fd, void *at, size_t n, off64_t from), (fd, at, n, from),
     FD(READS, pread))
CALL(ssize_t, -1, readv, (int fd, const struct iovec *at, int n), (fd, at, n), FD(READS, readv))
CALL(ssize_t, -1, preadv, (int fd, const struct iovec *at, int n, off_t from), (fd, at, n, from),
     FD(READS, preadv))
CALL(ssize_t, -1, preadv64, (int fd, const struct iovec *at, int n, off64_t from),
     (fd, at, n, from), FD(READS, preadv))
CALL(void *, MAP_FAILED, mmap, (void *at, size_t n, int may, int flags, int fd, off_t from),
     (at, n, may, flags, fd, from), flags & MAP_ANONYMOUS ? 0 : FD(READS, mmap))
CALL(void *, MAP_FAILED, mmap64, (void *at, size_t n, int may, int flags, int fd, off64_t from),
     (at, n, may, flags, fd, from), flags & MAP_ANONYMOUS ? 0 : FD(READS, mmap))

CALL(ssize_t, -1, write, (int fd, const void *at, size_t n), (fd, at, n), FD(WRITES, write))
CALL(ssize_t, -1, pwrite, (int fd, const void *at, size_t n, off_t to), (fd, at, n, to),
     FD(WRITES, pwrite))
CALL(ssize_t, -1, pwrite64, (int fd, const void *at, size_t n, off64_t to), (fd, at, n, to),
     FD(WRITES, pwrite))
CALL(ssize_t, -1, writev, (int fd, const struct iovec *at, int n), (fd, at, n),
     FD(WRITES, writev))
CALL(ssize_t, -1, pwritev, (int fd, const struct iovec *at, int n, off_t to), (fd, at, n, to),
     FD(WRITES, pwritev))
CALL(ssize_t, -1, pwritev64, (int fd, const struct iovec *at, int n, off64_t to), (fd, at, n, to),
     FD(WRITES, pwritev))
CALL(ssize_t, -1, sendfile, (int fd, int from, off_t *at, size_t n), (fd, from, at, n),
     FD(WRITES, sendfile))
CALL(ssize_t, -1, sendfile64, (int fd, int from, off64_t *at, size_t n), (fd, from, at, n),
     FD(WRITES, sendfile))
CALL(ssize_t, -1, copy_file_range,
     (int from, off64_t *at, int fd, off64_t *to, size_t n, unsigned flags),
     (from, at, fd, to, n, flags), FD(WRITES, copy_file_range))
CALL(int, -1, fsync, (int fd), (fd), FD(WRITES, fsync))
CALL(int, -1, fdatasync, (int fd), (fd), FD(WRITES, fdatasync))
CALL(int, -1, ftruncate, (int fd, off_t n), (fd, n), FD(WRITES, ftruncate))
CALL(int, -1, ftruncate64, (int fd, off64_t n), (fd, n), FD(WRITES, ftruncate))
CALL(int, -1, truncate, (const char *path, off_t n), (path, n), PATH(WRITES, truncate))
CALL(int, -1, truncate64, (const char *path, off64_t n), (path, n), PATH(WRITES, truncate))
CALL(int, -1, fchmod, (int fd, mode_t mode), (fd, mode), FD(WRITES, chmod))
CALL(int, -1, chmod, (const char *path, mode_t mode), (path, mode), PATH(WRITES, chmod))
CALL(int, -1, fchmodat, (int folder, const char *path, mode_t mode, int flags),
     (folder, path, mode, flags), AT(WRITES, chmod))
CALL(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), PATH(WRITES, mkdir))
CALL(int, -1, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode),
     AT(WRITES, mkdir))
CALL(int, -1, unlink, (const char *path), (path), PATH(WRITES, unlink))
CALL(int, -1, unlinkat, (int folder, const char *path, int flags), (folder, path, flags),
     AT(WRITES, unlink))
CALL(int, -1, remove, (const char *path), (path), PATH(WRITES, unlink))
CALL(int, -1, rmdir, (const char *path), (path), PATH(WRITES, rmdir))
CALL(int, -1, link, (const char *old, const char *path), (old, path), PATH(WRITES, link))
CALL(int, -1, rename, (const char *old, const char *path), (old, path), PATH(WRITES, rename))
CALL(int, -1, renameat, (int from, const char *old, int folder, const char *path),
     (from, old, folder, path), AT(WRITES, rename))
CALL(int, -1, renameat2, (int from, const char *old, int folder, const char *path, unsigned flags),
     (from, old, folder, path, flags), AT(WRITES, rename))

CALL(int, -1, stat, (const char *path, struct stat *to), (path, to), PATH(LOOKS, stat))
CALL(int, -1, stat64, (const char *path, struct stat64 *to), (path, to), PATH(LOOKS, stat))
CALL(int, -1, lstat, (const char *path, struct stat *to), (path, to), PATH(LOOKS, lstat))
CALL(int, -1, lstat64, (const char *path, struct stat64 *to), (path, to), PATH(LOOKS, lstat))
CALL(int, -1, fstatat, (int folder, const char *path, struct stat *to, int flags),
     (folder, path, to, flags), AT(LOOKS, stat))
CALL(int, -1, fstatat64, (int folder, const char *path, struct stat64 *to, int flags),
     (folder, path, to, flags), AT(LOOKS, stat))
CALL(int, -1, statx,
     (int folder, const char *restrict path, int flags, unsigned mask, struct statx *restrict to),
     (folder, path, flags, mask, to), AT(LOOKS, stat))
CALL(int, -1, fstat, (int fd, struct stat *to), (fd, to), FD(LOOKS, fstat))
CALL(int, -1, fstat64, (int fd, struct stat64 *to), (fd, to), FD(LOOKS, fstat))
CALL(int, -1, access, (const char *path, int mode), (path, mode), PATH(LOOKS, access))
CALL(DIR *, NULL, opendir, (const char *path), (path), PATH(LOOKS, opendir))
CALL(DIR *, NULL, fdopendir, (int fd), (fd), FD(LOOKS, opendir))
CALL(struct dirent *, NULL, readdir, (DIR *at), (at), fails_fd(LOOKS, "readdir", dirfd(at)))
CALL(struct dirent64 *, NULL, readdir64, (DIR *at), (at), fails_fd(LOOKS, "readdir", dirfd(at)))
