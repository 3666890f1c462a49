/* HCCL's interface over shared memory, for the processes of one machine: a SIMULATION for tests.
 *
 * Each process has a slot; a collective is: fill the own slot, wait for all, read, wait for all. It blocks.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SLOT ((uint64_t)4 << 20)
#define NAME 64
#define PATIENCE 300 /* seconds */
enum { FAILED = 4, SUM = 0, MAX = 2 };

typedef struct {
  _Atomic uint32_t arrived, round;
  char rest[4096 - 2 * sizeof(uint32_t)];
} Header;

typedef struct {
  Header* header;
  char* slots;
  uint32_t size, rank;
} Communicator;

int simulated_npu_lacks(const char* name);

static uint64_t width(int type) { /* bytes, by HcclDataType */
  static const uint8_t bytes[] = {1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2};
  return bytes[type];
}

static void meet(Communicator* c) {
  uint32_t round = atomic_load(&c->header->round);
  if (atomic_fetch_add(&c->header->arrived, 1) + 1 == c->size) {
    atomic_store(&c->header->arrived, 0);
    atomic_fetch_add(&c->header->round, 1);
    return;
  }
  time_t start = time(NULL);
  while (atomic_load(&c->header->round) == round) {
    usleep(50);
    if (time(NULL) - start > PATIENCE) { /* a process that waits for a dead one would wait for ever */
      fprintf(stderr, "simulated HCCL: the other processes did not come for %d s\n", PATIENCE);
      _exit(1);
    }
  }
}

int HcclGetRootInfo(char* info) {
  memset(info, 0, NAME);
  snprintf(info, NAME, "/m2det_simulated_hccl_%d_%ld", (int)getpid(), (long)time(NULL));
  return 0;
}

int HcclCommInitRootInfo(uint32_t size, const char* info, uint32_t rank, void** made) {
  size_t length = sizeof(Header) + size * SLOT;
  int file = shm_open(info, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, (off_t)length)) return FAILED;
  char* memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return FAILED;
  Communicator* c = malloc(sizeof *c);
  *c = (Communicator){(Header*)memory, memory + sizeof(Header), size, rank};
  meet(c);
  if (rank == 0) shm_unlink(info);
  *made = c;
  return 0;
}

int HcclCommInitRootInfoConfig(uint32_t size, const char* info, uint32_t rank, const void* config, void** made) {
  return HcclCommInitRootInfo(size, info, rank, made);
}
int HcclCommDestroy(void* communicator) { return 0; }
int HcclGetCommAsyncError(void* communicator, int* error) { *error = 0; return 0; }
int HcclGetCommConfigCapability(void) { return 0; }
const char* HcclGetErrorString(int error) { return "simulated HCCL, see the line that it printed"; }

#define REDUCE(TYPE)                                                                \
  for (uint64_t i = 0; i < count; i++) {                                            \
    TYPE result = ((TYPE*)c->slots)[i];                                             \
    for (uint32_t other = 1; other < c->size; other++) {                            \
      TYPE value = ((TYPE*)(c->slots + other * SLOT))[i];                           \
      result = operation == SUM ? result + value : value > result ? value : result; \
    }                                                                               \
    ((TYPE*)out)[i] = result;                                                       \
  }

static int reduce(Communicator* c, char* out, uint64_t count, int type, int operation) {
  if (operation != SUM && operation != MAX) return simulated_npu_lacks("HcclAllReduce with this operation"), FAILED;
  if (type == 4) { REDUCE(float) }
  else if (type == 2) { REDUCE(int32_t) }
  else if (type == 5) { REDUCE(int64_t) }
  else return simulated_npu_lacks("HcclAllReduce of this type"), FAILED;
  return 0;
}

int HcclAllReduce(char* in, char* out, uint64_t count, int type, int operation, Communicator* c, void* stream) {
  uint64_t step = SLOT / width(type);
  int failed = 0;
  for (uint64_t done = 0; done < count; done += step) {
    uint64_t part = count - done < step ? count - done : step, offset = done * width(type);
    memcpy(c->slots + c->rank * SLOT, in + offset, part * width(type));
    meet(c);
    failed |= reduce(c, out + offset, part, type, operation);
    meet(c);
  }
  return failed;
}

int HcclBroadcast(char* buffer, uint64_t count, int type, uint32_t root, Communicator* c, void* stream) {
  uint64_t size = count * width(type);
  for (uint64_t done = 0; done < size; done += SLOT) {
    uint64_t part = size - done < SLOT ? size - done : SLOT;
    if (c->rank == root) memcpy(c->slots, buffer + done, part);
    meet(c);
    if (c->rank != root) memcpy(buffer + done, c->slots, part);
    meet(c);
  }
  return 0;
}

int HcclAllGather(char* in, char* out, uint64_t count, int type, Communicator* c, void* stream) {
  uint64_t size = count * width(type);
  for (uint64_t done = 0; done < size; done += SLOT) {
    uint64_t part = size - done < SLOT ? size - done : SLOT;
    memcpy(c->slots + c->rank * SLOT, in + done, part);
    meet(c);
    for (uint32_t other = 0; other < c->size; other++) memcpy(out + other * size + done, c->slots + other * SLOT, part);
    meet(c);
  }
  return 0;
}
