/* The runtime of CANN that torch_npu calls, over host memory: a SIMULATION for tests.
 *
 * Pretend devices, all in this process; every call has finished when it returns. The signatures are those of CANN's
 * public headers. What torch_npu needs beyond this file and hccl.c is made by build.py: it fails, by name.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES 2
#define OUT_OF_MEMORY 207001
#define NOT_SIMULATED 507899

static __thread int32_t device;
static char contexts[DEVICES]; /* only their addresses matter */

int simulated_npu_lacks(const char* name) {
  fprintf(stderr, "simulated NPU: %s is not simulated\n", name);
  return NOT_SIMULATED;
}

/* devices and contexts */
int aclInit(const char* config) { return 0; }
int aclFinalize(void) { return 0; }
const char* aclGetRecentErrMsg(void) { return "simulated NPU, see the line that it printed"; }
const char* aclrtGetSocName(void) { return getenv("M2DET_SIMULATED_CHIP"); }
/* Only whether operators are compiled as they come is asked for: by default on old chips only (Ascend's documentation of
 * torch_npu.npu.set_compile_mode). Then torch_npu casts weights to the chip's own formats, unless they are not allowed. */
static const char* jit_compile(void) { return getenv("M2DET_SIMULATED_JIT_COMPILE"); }
size_t aclGetCompileoptSize(int option) { return strlen(jit_compile()) + 1; }
int aclGetCompileopt(int option, char* value, size_t length) { strncpy(value, jit_compile(), length); return 0; }
int aclrtGetDeviceCount(uint32_t* count) { *count = DEVICES; return 0; }
int aclrtSetDevice(int32_t wanted) {
  if (wanted < 0 || wanted >= DEVICES) return simulated_npu_lacks("a third device");
  device = wanted;
  return 0;
}
int aclrtGetDevice(int32_t* current) { *current = device; return 0; }
int aclrtResetDevice(int32_t which) { return 0; }
int aclrtGetCurrentContext(void** context) { *context = &contexts[device]; return 0; }
int aclrtSetCurrentContext(void* context) {
  long index = (char*)context - contexts;
  if (index >= 0 && index < DEVICES) device = (int32_t)index;
  return 0;
}
int aclrtGetMemInfo(int kind, size_t* spare, size_t* total) {
  *spare = (size_t)16 << 30;
  *total = (size_t)32 << 30;
  return 0;
}
int aclrtGetDeviceCapability(int32_t which, int feature, int32_t* value) { *value = 1; return 0; }
int aclrtDeviceCanAccessPeer(int32_t* can, int32_t which, int32_t other) { *can = 1; return 0; }
int aclrtDeviceEnablePeerAccess(int32_t other, uint32_t flags) { return 0; }
int aclrtGetSysParamOpt(int option, int64_t* value) { *value = 0; return 0; }
int aclrtSetSysParamOpt(int option, int64_t value) { return 0; }

/* streams and events: everything is over already */
static int create(void** thing) { *thing = malloc(1); return *thing ? 0 : OUT_OF_MEMORY; }
int aclrtCreateStream(void** stream) { return create(stream); }
int aclrtCreateStreamWithConfig(void** stream, uint32_t priority, uint32_t flags) { return create(stream); }
int aclrtDestroyStream(void* stream) { free(stream); return 0; }
int aclrtSynchronizeStream(void* stream) { return 0; }
int aclrtStreamWaitEvent(void* stream, void* event) { return 0; }
int aclrtCreateEventWithFlag(void** event, uint32_t flags) { return create(event); }
int aclrtCreateEventExWithFlag(void** event, uint32_t flags) { return create(event); }
int aclrtDestroyEvent(void* event) { free(event); return 0; }
int aclrtRecordEvent(void* event, void* stream) { return 0; }
int aclrtResetEvent(void* event, void* stream) { return 0; }
int aclrtSynchronizeEvent(void* event) { return 0; }
int aclrtQueryEventStatus(void* event, int* status) { *status = 1; return 0; }
int aclrtQueryEventWaitStatus(void* event, int* status) { *status = 1; return 0; }
int aclrtEventElapsedTime(float* milliseconds, void* start, void* end) {
  return simulated_npu_lacks("the time between events");
}

/* memory */
static int allocate(void** pointer, size_t size) { return posix_memalign(pointer, 512, size ? size : 512) ? OUT_OF_MEMORY : 0; }
int aclrtMalloc(void** pointer, size_t size, int policy) { return allocate(pointer, size); }
int aclrtMallocAlign32(void** pointer, size_t size, int policy) { return allocate(pointer, size); }
int aclrtMallocWithCfg(void** pointer, size_t size, int policy, void* config) { return allocate(pointer, size); }
int aclrtMallocHost(void** pointer, size_t size) { return allocate(pointer, size); }
int aclrtFree(void* pointer) { free(pointer); return 0; }
int aclrtFreeHost(void* pointer) { free(pointer); return 0; }
int aclrtMemcpy(void* to, size_t room, const void* from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t size, int kind, void* stream) {
  memcpy(to, from, size);
  return 0;
}
int aclrtMemset(void* to, size_t room, int32_t value, size_t size) { memset(to, value, size); return 0; }
int aclrtMemsetAsync(void* to, size_t room, int32_t value, size_t size, void* stream) { memset(to, value, size); return 0; }

/* an operator that nobody redirected to the CPU */
int aclopCompileAndExecute(const char* operator_name) { return simulated_npu_lacks(operator_name); }
