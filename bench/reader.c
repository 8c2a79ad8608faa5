/* The readers of the scoreboard: what they cost must not depend on who is measured, so they are C and do nothing else.
 *
 *   reader seq FILE BLOCK                 read a file once from start to end
 *   reader rand FILE BLOCK SECONDS SEED   aligned random preads, one at a time
 *   reader files ROOT LIST SIZE READERS SECONDS   open + read SIZE + close of every path in LIST, relative to ROOT
 *   reader walk DIR                       readdir and lstat of everything below
 *   reader first PATH DIR                 lstat of a known path, then the first page of a directory
 *   reader same A B LIST                  count files of LIST that differ between two trees (LIST "-": A and B are files)
 *   reader drop FILE                      push a file's pages out of the page cache
 *   reader probe                          what this machine does now: copy B/s, system calls/s, cross-process wake-ups/s
 *
 * Each prints one line of JSON: seconds of wall clock, CPU seconds of the reader, and counts. Exit status 1 with a line on
 * stderr that names the path when a read fails.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu(int who) {
    struct rusage u;
    getrusage(who, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void die(const char *what, const char *path) {
    fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

static char *buffer(size_t size) {
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (p == MAP_FAILED) die("cannot allocate a buffer for", "reading");
    return p;
}

static int seq(const char *path, size_t block) {
    char *buf = buffer(block);
    double c = cpu(RUSAGE_SELF), t = now();
    int fd = open(path, O_RDONLY);
    if (fd < 0) die("open", path);
    uint64_t total = 0;
    ssize_t n;
    while ((n = read(fd, buf, block)) > 0) total += (uint64_t)n;
    if (n < 0) die("read", path);
    close(fd);
    t = now() - t;
    printf("{\"bytes\": %lu, \"s\": %.6f, \"cpu\": %.6f}\n", total, t, cpu(RUSAGE_SELF) - c);
    return 0;
}

static uint64_t next(uint64_t *x) { /* xorshift64 */
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static int rnd(const char *path, size_t block, double seconds, uint64_t seed) {
    char *buf = buffer(block);
    int fd = open(path, O_RDONLY);
    if (fd < 0) die("open", path);
    struct stat st;
    if (fstat(fd, &st)) die("fstat", path);
    uint64_t blocks = (uint64_t)st.st_size / block, n = 0, x = seed * 0x9E3779B97F4A7C15u + 1;
    if (!blocks) {
        errno = EINVAL;
        die("shorter than a block:", path);
    }
    double c = cpu(RUSAGE_SELF), t = now(), end = t + seconds, at = t;
    do {
        for (int i = 0; i < 64; i++, n++)
            if (pread(fd, buf, block, (off_t)(next(&x) % blocks * block)) != (ssize_t)block) die("pread", path);
    } while ((at = now()) < end);
    printf("{\"n\": %lu, \"s\": %.6f, \"cpu\": %.6f}\n", n, at - t, cpu(RUSAGE_SELF) - c);
    return 0;
}

static char **read_list(const char *path, size_t *count) {
    int fd = open(path, O_RDONLY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) die("open", path);
    char *text = malloc((size_t)st.st_size + 1);
    if (!text || read(fd, text, (size_t)st.st_size) != st.st_size) die("read", path);
    text[st.st_size] = 0;
    close(fd);
    size_t n = 0, room = 1024;
    char **list = malloc(room * sizeof *list);
    for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n")) {
        if (n == room) list = realloc(list, (room *= 2) * sizeof *list);
        list[n++] = p;
    }
    *count = n;
    return list;
}

/* READERS processes share the list by turns: reader k takes entries k, k + READERS, ... */
static int files(const char *root, const char *listing, size_t size, int readers, double seconds) {
    size_t count;
    char **list = read_list(listing, &count);
    if (chdir(root)) die("chdir", root);
    uint64_t *done = mmap(NULL, sizeof(uint64_t) * 2 * (size_t)readers, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double t = now();
    for (int k = 0; k < readers; k++) {
        if (readers > 1 && fork()) continue;
        char *buf = buffer(size);
        double begin = now();
        for (size_t i = (size_t)k; i < count; i += (size_t)readers) {
            int fd = open(list[i], O_RDONLY);
            if (fd < 0) die("open", list[i]);
            ssize_t n = read(fd, buf, size);
            if (n < 0) die("read", list[i]);
            if (n == 0) {
                errno = EIO;
                die("empty", list[i]);
            }
            close(fd);
            done[2 * k]++;
            done[2 * k + 1] += (uint64_t)n;
            if ((done[2 * k] & 15) == 0 && now() - begin > seconds) break;
        }
        if (readers > 1) _exit(0);
    }
    int bad = 0, status;
    while (readers > 1 && wait(&status) > 0) bad |= status;
    t = now() - t;
    uint64_t n = 0, bytes = 0;
    for (int k = 0; k < readers; k++) n += done[2 * k], bytes += done[2 * k + 1];
    printf("{\"n\": %lu, \"bytes\": %lu, \"s\": %.6f, \"cpu\": %.6f}\n", n, bytes, t, cpu(readers > 1 ? RUSAGE_CHILDREN : RUSAGE_SELF));
    return bad != 0;
}

static uint64_t walk_at(int fd, const char *name) {
    DIR *d = fdopendir(fd);
    if (!d) die("opendir", name);
    uint64_t n = 0;
    struct dirent *e;
    struct stat st;
    for (errno = 0; (e = readdir(d)); errno = 0) {
        if (e->d_name[0] == '.' && (!e->d_name[1] || (e->d_name[1] == '.' && !e->d_name[2]))) continue;
        if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW)) die("lstat", e->d_name);
        n++;
        if (S_ISDIR(st.st_mode)) {
            int sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY);
            if (sub < 0) die("opendir", e->d_name);
            n += walk_at(sub, e->d_name);
        }
    }
    if (errno) die("readdir", name);
    closedir(d);
    return n;
}

static int walk(const char *dir) {
    double c = cpu(RUSAGE_SELF), t = now();
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    if (fd < 0) die("opendir", dir);
    uint64_t n = walk_at(fd, dir);
    t = now() - t;
    printf("{\"n\": %lu, \"s\": %.6f, \"cpu\": %.6f}\n", n, t, cpu(RUSAGE_SELF) - c);
    return 0;
}

static int first(const char *path, const char *dir) {
    struct stat st;
    static char page[32768];
    double t = now();
    if (lstat(path, &st)) die("lstat", path);
    double stat_s = now() - t;
    t = now();
    int fd = open(dir, O_RDONLY | O_DIRECTORY);
    if (fd < 0) die("opendir", dir);
    long n = syscall(SYS_getdents64, fd, page, sizeof page);
    if (n <= 0) die("readdir", dir);
    printf("{\"stat_s\": %.6f, \"page_s\": %.6f, \"size\": %ld}\n", stat_s, now() - t, (long)st.st_size);
    return 0;
}

static int same_file(const char *a, const char *b, char *buf, size_t room) {
    int fa = open(a, O_RDONLY), fb = open(b, O_RDONLY), same = fa >= 0 && fb >= 0;
    if (!same) fprintf(stderr, "open %s: %s\n", fa < 0 ? a : b, strerror(errno));
    while (same) {
        ssize_t n = 0, m = 0, k;
        while (n < (ssize_t)room && (k = read(fa, buf + n, room - (size_t)n)) > 0) n += k;
        while (m < (ssize_t)room && (k = read(fb, buf + room + m, room - (size_t)m)) > 0) m += k;
        same = n == m && !memcmp(buf, buf + room, (size_t)n);
        if (n < (ssize_t)room) break;
    }
    if (fa >= 0) close(fa);
    if (fb >= 0) close(fb);
    return same;
}

static int same(const char *a, const char *b, const char *listing) {
    size_t count = 1, wrong = 0, room = 1 << 20;
    char *buf = buffer(2 * room), pa[PATH_MAX], pb[PATH_MAX];
    if (!strcmp(listing, "-")) {
        wrong = !same_file(a, b, buf, room);
    } else {
        char **list = read_list(listing, &count);
        for (size_t i = 0; i < count; i++) {
            snprintf(pa, sizeof pa, "%s/%s", a, list[i]);
            snprintf(pb, sizeof pb, "%s/%s", b, list[i]);
            wrong += !same_file(pa, pb, buf, room);
        }
    }
    printf("{\"n\": %zu, \"wrong\": %zu}\n", count, wrong);
    return 0;
}

static int drop(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) die("open", path);
    int error = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (error) {
        errno = error;
        die("drop", path);
    }
    printf("{}\n");
    return 0;
}

static int probe(void) {
    size_t size = 64 << 20;
    char *a = buffer(size), *b = buffer(size);
    memset(a, 1, size);
    double t = now(), s;
    uint64_t n = 0;
    do memcpy(b, a, size), n++;
    while ((s = now() - t) < 0.15);
    double copy = (double)(n * size) / s;
    t = now(), n = 0;
    do for (int i = 0; i < 1000; i++, n++) syscall(SYS_getppid);
    while ((s = now() - t) < 0.15);
    double calls = (double)n / s;
    int there[2], back[2];
    char c = 0;
    if (pipe(there) || pipe(back)) die("pipe", "");
    pid_t child = fork();
    if (!child) {
        close(there[1]);
        while (read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1) {}
        _exit(0);
    }
    close(there[0]);
    t = now(), n = 0;
    do for (int i = 0; i < 50; i++, n++)
            if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1) die("pipe", "");
    while ((s = now() - t) < 0.15);
    double wakes = (double)n / s;
    close(there[1]);
    waitpid(child, NULL, 0);
    printf("{\"copy\": %.0f, \"syscalls\": %.0f, \"wakeups\": %.0f}\n", copy, calls, wakes);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "seq") && argc == 4) return seq(argv[2], strtoul(argv[3], NULL, 0));
    if (!strcmp(what, "rand") && argc == 6) return rnd(argv[2], strtoul(argv[3], NULL, 0), atof(argv[4]), strtoul(argv[5], NULL, 0));
    if (!strcmp(what, "files") && argc == 7) return files(argv[2], argv[3], strtoul(argv[4], NULL, 0), atoi(argv[5]), atof(argv[6]));
    if (!strcmp(what, "walk") && argc == 3) return walk(argv[2]);
    if (!strcmp(what, "first") && argc == 4) return first(argv[2], argv[3]);
    if (!strcmp(what, "same") && argc == 5) return same(argv[2], argv[3], argv[4]);
    if (!strcmp(what, "drop") && argc == 3) return drop(argv[2]);
    if (!strcmp(what, "probe") && argc == 2) return probe();
    fprintf(stderr, "usage: see the head of reader.c\n");
    return 2;
}
