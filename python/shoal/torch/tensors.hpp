// Tensors as the library sees them: memory in one piece, types by number, operators that it has.
#pragma once

#include "lane.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include <algorithm>

namespace shoal {

using c10d::ReduceOp;

// A tensor in one piece that stands for `tensor` in the task: itself, or a copy that is filled before and brought
// back after.
inline at::Tensor staged(Task& task, const at::Tensor& tensor, bool isRead, bool isWritten) {
  TORCH_CHECK(tensor.device().is_cpu(), "shoal: tensors must lie on the CPU, this one is on ", tensor.device());
  TORCH_CHECK(tensor.layout() == at::kStrided, "shoal: tensors must be dense");
  if (tensor.is_contiguous()) return tensor;
  at::Tensor copy = at::empty(tensor.sizes(), tensor.options().requires_grad(false));
  if (isRead) task.before.push_back([copy, tensor] { copy.copy_(tensor); });
  if (isWritten) task.after.push_back([copy, tensor] { tensor.copy_(copy); });
  return copy;
}

inline at::Tensor source(Task& task, const at::Tensor& tensor) { return staged(task, tensor, true, false); }
inline at::Tensor target(Task& task, const at::Tensor& tensor) { return staged(task, tensor, false, true); }

// The library's type for arithmetic; -1 if it has none.
inline int numberType(at::ScalarType type) {
  switch (type) {
    case at::kChar: return ncclInt8;
    case at::kByte: return ncclUint8;
    case at::kBool: return ncclUint8;
    case at::kInt: return ncclInt32;
    case at::ScalarType::UInt32: return ncclUint32;
    case at::kLong: return ncclInt64;
    case at::ScalarType::UInt64: return ncclUint64;
    case at::kHalf: return ncclFloat16;
    case at::kFloat: return ncclFloat32;
    case at::kDouble: return ncclFloat64;
    case at::kBFloat16: return ncclBfloat16;
    case at::ScalarType::Float8_e4m3fn: return ncclFloat8e4m3;
    case at::ScalarType::Float8_e5m2: return ncclFloat8e5m2;
    default: return -1;
  }
}

// The library's operator; -1 if it has none. Of truth values the sum is "or", and they are bytes 0 and 1.
inline int operatorOf(const ReduceOp& op, at::ScalarType type) {
  bool isTruth = type == at::kBool;
  switch (op.op_) {
    case ReduceOp::SUM: return isTruth ? ncclMax : ncclSum;
    case ReduceOp::PREMUL_SUM: return isTruth ? -1 : ncclSum;
    case ReduceOp::AVG: return isTruth ? -1 : ncclAvg;
    case ReduceOp::PRODUCT: return isTruth ? ncclMin : ncclProd;
    case ReduceOp::MIN: return ncclMin;
    case ReduceOp::MAX: return ncclMax;
    case ReduceOp::BAND: return isTruth ? ncclMin : -1;
    case ReduceOp::BOR: return isTruth ? ncclMax : -1;
    default: return -1;
  }
}

// What the library does not combine is gathered and combined here, in the order of the ranks.
inline bool isCombinedHere(const ReduceOp& op, at::ScalarType type) {
  return numberType(type) < 0 || operatorOf(op, type) < 0;
}

inline void combine(const ReduceOp& op, at::Tensor into, const at::Tensor& other) {
  switch (op.op_) {
    case ReduceOp::SUM: into.add_(other); return;
    case ReduceOp::PRODUCT: into.mul_(other); return;
    case ReduceOp::MIN: into.copy_(at::minimum(into, other)); return;
    case ReduceOp::MAX: into.copy_(at::maximum(into, other)); return;
    case ReduceOp::BAND: into.bitwise_and_(other); return;
    case ReduceOp::BOR: into.bitwise_or_(other); return;
    case ReduceOp::BXOR: into.bitwise_xor_(other); return;
    default: TORCH_CHECK(false, "shoal: this operator is not defined for ", into.scalar_type());
  }
}

// Rows of `all`, combined.
inline at::Tensor combined(const ReduceOp& op, const at::Tensor& all) {
  at::Tensor sum = all[0].clone();
  for (int64_t row = 1; row < all.size(0); row++) combine(op, sum, all[row]);
  return sum;
}

inline at::Tensor realView(const at::Tensor& tensor, const ReduceOp& op) {
  if (!tensor.is_complex()) return tensor;
  TORCH_CHECK(c10d::isComplexViewAsRealAllowed(op), "shoal: this operator is not defined for complex numbers");
  return at::view_as_real(tensor);
}

inline void checkBits(const ReduceOp& op, at::ScalarType type) {
  bool isBits = op.op_ == ReduceOp::BAND || op.op_ == ReduceOp::BOR || op.op_ == ReduceOp::BXOR;
  TORCH_CHECK(!isBits || at::isIntegralType(type, true), "Cannot use ReduceOp.BAND, BOR or BXOR with non-integral dtype");
  TORCH_CHECK(op.op_ != ReduceOp::AVG || type != at::kBool, "Cannot use ReduceOp.AVG with bool");
  TORCH_CHECK(op.op_ != ReduceOp::PREMUL_SUM || at::isFloatingType(type), "PREMUL_SUM needs floating point numbers");
  bool isCombinable = numberType(type) >= 0 || type == at::kShort || type == at::ScalarType::UInt16;
  TORCH_CHECK_TYPE(isCombinable, "Invalid scalar type: shoal does not reduce ", type);
}

// The factor of PREMUL_SUM goes into a copy.
inline at::Tensor factored(Task& task, const at::Tensor& tensor, const ReduceOp& op) {
  if (op.op_ != ReduceOp::PREMUL_SUM) return tensor;
  auto* factor = static_cast<c10d::NCCLPreMulSumSupplement*>(op.supplement_.get());
  TORCH_CHECK(factor, "shoal: PREMUL_SUM without its factor");
  at::Tensor copy = at::empty(tensor.sizes(), tensor.options().requires_grad(false));
  at::Tensor by = factor->tensor_factor.defined() ? factor->tensor_factor.cpu().to(tensor.scalar_type())
                                                  : at::scalar_tensor(factor->double_factor, tensor.options());
  task.before.push_back([copy, tensor, by]() mutable { at::mul_out(copy, tensor, by); });
  return copy;
}

inline bool isSameSize(const std::vector<at::Tensor>& tensors, int64_t numel) {
  return std::all_of(tensors.begin(), tensors.end(), [&](auto& tensor) { return tensor.numel() == numel; });
}

}  // namespace shoal
