// Preloaded into redis-server: its wall clock is the number of microseconds in the file named by SLOTGATE_CLOCK, so that a
// test can let hours pass without waiting. A number that would be before 1973 is added to the real clock, which then runs on. Timers and timeouts of the server itself go by the monotonic clock, untouched.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *microseconds;

static long long now(void) {
  if (!microseconds) {
    int file = open(getenv("SLOTGATE_CLOCK"), O_RDONLY);
    void *page = mmap(0, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    microseconds = page;
  }
  long long us = *microseconds;
  if (us < 100000000000000) {
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    us += real.tv_sec * 1000000LL + real.tv_nsec / 1000;
  }
  return us;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
  (void)zone;
  long long us = now();
  tv->tv_sec = us / 1000000;
  tv->tv_usec = us % 1000000;
  return 0;
}

time_t time(time_t *out) {
  time_t seconds = now() / 1000000;
  if (out) *out = seconds;
  return seconds;
}
