/* A pipe, splice, a file: what C makes of collecting without sharing memory.
 *
 * Usage: splice PRODUCERS CHUNK_BYTES COUNT RESIDENT_BYTES FILE...
 *
 * Each producer, a process, writes COUNT chunks into its own pipe of 1 MiB. This process splices
 * what comes from each pipe into the producer's FILE, and prints the seconds from the first chunk
 * to the last byte. With RESIDENT_BYTES the files are there and are written round and round.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PIPE_BYTES = 1 << 20, MOST_PRODUCERS = 64 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void produce(int go, int fd, size_t chunk_bytes, long count) {
    char *chunk = malloc(chunk_bytes), byte;
    memset(chunk, 'x', chunk_bytes);
    if (read(go, &byte, 1) < 0) die("read");
    while (count--)
        for (size_t done = 0; done < chunk_bytes;) {
            ssize_t n = write(fd, chunk + done, chunk_bytes - done);
            if (n < 0) die("write");
            done += n;
        }
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    int producers = atoi(argv[1]);
    size_t chunk_bytes = strtoull(argv[2], NULL, 10);
    long count = atol(argv[3]);
    long long lap = atoll(argv[4]);
    if (producers < 1 || producers > MOST_PRODUCERS || argc != 5 + producers) return 2;

    struct pollfd polled[MOST_PRODUCERS];
    int files[MOST_PRODUCERS], go[2];
    long long at[MOST_PRODUCERS] = {0};
    if (pipe(go)) die("pipe");
    for (int i = 0; i < producers; i++) {
        int ends[2];
        if (pipe(ends)) die("pipe");
        fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
        files[i] = open(argv[5 + i], lap ? O_WRONLY : O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (files[i] < 0) die(argv[5 + i]);
        pid_t pid = fork();
        if (pid < 0) die("fork");
        if (pid == 0) {
            close(go[1]);
            close(ends[0]);
            produce(go[0], ends[1], chunk_bytes, count);
        }
        close(ends[1]);
        polled[i] = (struct pollfd){.fd = ends[0], .events = POLLIN};
    }
    double start = now();
    close(go[1]);
    for (int open_pipes = producers; open_pipes;) {
        if (poll(polled, producers, -1) < 0) die("poll");
        for (int i = 0; i < producers; i++) {
            if (!polled[i].revents) continue;
            ssize_t n = splice(polled[i].fd, NULL, files[i], NULL, PIPE_BYTES, SPLICE_F_MOVE);
            if (n < 0) die("splice");
            if (n == 0) {
                polled[i].fd = -1;
                open_pipes--;
                if (close(files[i])) die("close");
                continue;
            }
            at[i] += n;
            if (lap && at[i] >= lap) {
                at[i] = 0;
                if (lseek(files[i], 0, SEEK_SET) < 0) die("lseek");
            }
        }
    }
    printf("%.6f\n", now() - start);
    while (wait(NULL) > 0) {}
    return 0;
}
