/* hf_refuse.c - folders, files and schemes that are not ours to run: what each is, and what to use
 * instead, so that the first line somebody reads is already the answer. */
#include "model/hf.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "base/sl_assert.h"

/* By the name of a file: suffix (when it begins with '.') or whole name. */
static const struct neighbour {
    const char *name, *says;
} neighbours[] = {
    {"adapter_model.safetensors",
     "this is a LoRA adapter, not a model; give the folder of its base model, and load this folder "
     "as an adapter"},
    {"adapter_config.json",
     "this is a LoRA adapter, not a model; give the folder of its base model, and load this folder "
     "as an adapter"},
    {"model_index.json", "this is a diffusion pipeline (model_index.json); sluice runs language "
                         "models"},
    {".gguf", "the folder holds GGUF files; give the path of one (of a split model, the first "
              "part)"},
    {"consolidated.safetensors",
     "only consolidated.safetensors, Mistral's own layout; use the model in the Hugging Face "
     "layout (model*.safetensors)"},
    {"params.json", "only the maker's original layout (params.json); use the model in the Hugging "
                    "Face layout (config.json and model*.safetensors)"},
    {".bin", "the weights are PyTorch pickles (.bin), which can run code and are not read; use a "
             "revision with .safetensors, or convert it with save_pretrained"},
    {".pth", "the weights are PyTorch pickles (.pth), which can run code and are not read; use a "
             "revision with .safetensors, or convert it with save_pretrained"},
    {".pt", "the weights are PyTorch pickles (.pt), which can run code and are not read; use a "
            "revision with .safetensors, or convert it with save_pretrained"},
    {".ckpt", "the weights are a training checkpoint (.ckpt); use a revision with .safetensors"},
    {".onnx", "the weights are ONNX, which sluice does not read; use the model with "
              ".safetensors, or a GGUF file"},
    {".h5", "the weights are TensorFlow's (.h5); use a revision with .safetensors"},
    {".msgpack", "the weights are Flax's (.msgpack); use a revision with .safetensors"},
    {".tflite", "the weights are TensorFlow Lite's; use the model with .safetensors, or a GGUF "
                "file"},
    {".llamafile", "this is a llamafile; use the GGUF file that it was made from"},
    {".engine", "this is a TensorRT engine, built for one machine; use the model it was made from"},
    {".mlmodel", "the weights are Core ML's; use the model with .safetensors, or a GGUF file"},
    {".nemo", "the weights are NeMo's; convert them to the Hugging Face layout"},
};

static int matches(const char *file, const char *name)
{
    size_t n = strlen(file), m = strlen(name);
    if (name[0] != '.') return strcmp(file, name) == 0;
    return n > m && strcasecmp(file + n - m, name) == 0;
}

int sl_hf_refuse_folder(const char *dir, char *const *names, size_t n, struct sl_err *err)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(neighbours); i++)
        for (size_t j = 0; j < n; j++)
            if (matches(names[j], neighbours[i].name))
                return sl_err_set(err, SL_EUNSUPPORTED, "%s: %s", dir, neighbours[i].says);
    return sl_err_set(
        err, SL_EINPUT,
        n ? "%s: no model in this folder: neither .safetensors nor .gguf files; was "
            "the download finished?"
          : "%s: the folder is empty, not a model; give a .gguf file or a folder with "
            "config.json and model.safetensors",
        dir);
}

int sl_hf_refuse_file(const char *path, struct sl_err *err)
{
    for (size_t i = 0; i < SL_ARRAY_LEN(neighbours); i++) {
        const char *name = neighbours[i].name;
        if (name[0] == '.' && strcmp(name, ".gguf") != 0 && matches(path, name))
            return sl_err_set(err, SL_EUNSUPPORTED, "%s: %s", path, neighbours[i].says);
    }
    return 0;
}

/* quant_method values that we do not run. */
static const struct scheme {
    const char *method, *says;
} schemes[] = {
    {"exl2", "EXL2 weights"},
    {"exl3", "EXL3 weights"},
    {"aqlm", "AQLM weights"},
    {"hqq", "HQQ weights"},
    {"vptq", "VPTQ weights"},
    {"spqr", "SpQR weights"},
    {"quip", "QuIP weights"},
    {"quip_sharp", "QuIP# weights"},
    {"higgs", "HIGGS weights"},
    {"eetq", "EETQ weights"},
    {"quanto", "Quanto weights"},
    {"torchao", "torchao weights"},
    {"bitnet", "BitNet weights"},
    {"marlin", "weights in Marlin's layout"},
    {"gptq_marlin_24", "2:4 sparse weights in Marlin's layout"},
    {"fp_quant", "FP-Quant weights"},
    {"sinq", "SINQ weights"},
    {"deepspeedfp", "DeepSpeed FP weights"},
    {"tpu_int8", "TPU weights"},
    {"neuron_quant", "Neuron weights"},
    {"ipex", "IPEX weights"},
    {"quark", "Quark weights"},
    {"petit_nvfp4", "Petit weights"},
};

/* quant_algo values of ModelOpt, whose weights need what we do not do to the activations. */
static const char *const algorithms[] = {"W4A16_AWQ", "W4A8_AWQ", "INT4_AWQ", "NVFP4_SVD",
                                         "W8A8_SQ_PER_CHANNEL"};

#define INSTEAD "use the model in BF16, FP8, NVFP4, MXFP4, AWQ or GPTQ, or as a GGUF file"

static int refuse(const char *where, const char *what, const char *name, struct sl_err *err)
{
    return sl_err_set(err, SL_EUNSUPPORTED, "%s: %s (%s) are not run here; %s", where, what, name,
                      INSTEAD);
}

/* compressed-tensors: what is applied around the weights that it stores. */
static int refuse_around(const char *where, const json_t *q, struct sl_err *err)
{
    const json_t *transform = json_object_get(q, "transform_config");
    const json_t *sparsity = json_object_get(json_object_get(q, "sparsity_config"), "format");
    const char *format = json_string_value(json_object_get(q, "format"));
    const char *sparse = json_string_value(sparsity);
    if (json_object_size(json_object_get(transform, "config_groups")))
        return refuse(where, "weights with rotations", "transform_config", err);
    if (sparse && strcasecmp(sparse, "dense") != 0)
        return refuse(where, "sparse weights", sparse, err);
    if (format && strncasecmp(format, "marlin", 6) == 0)
        return refuse(where, "2:4 sparse weights in Marlin's layout", format, err);
    if (json_is_true(json_object_get(q, "is_marlin_format")))
        return refuse(where, "GPTQ weights in Marlin's layout", "is_marlin_format", err);
    return 0;
}

/* One of the objects that may describe a quantization. */
static int refuse_quantization(const char *where, const json_t *q, struct sl_err *err)
{
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    const char *algorithm = json_string_value(json_object_get(q, "quant_algo"));
    for (size_t i = 0; method && i < SL_ARRAY_LEN(schemes); i++)
        if (strcasecmp(method, schemes[i].method) == 0)
            return refuse(where, schemes[i].says, method, err);
    for (size_t i = 0; algorithm && i < SL_ARRAY_LEN(algorithms); i++)
        if (strcasecmp(algorithm, algorithms[i]) == 0)
            return refuse(where, "ModelOpt's weights of this kind", algorithm, err);
    return refuse_around(where, q, err);
}

int sl_hf_refuse_config(const char *where, const struct json_t *config, const struct json_t *quant,
                        struct sl_err *err)
{
    const json_t *q = json_object_get(config, "quantization_config");
    const json_t *text = json_object_get(config, "text_config");
    int r = refuse_quantization(where, q, err);
    if (!r) r = refuse_quantization(where, json_object_get(text, "quantization_config"), err);
    if (!r) r = refuse_quantization(where, json_object_get(quant, "quantization"), err);
    if (r || q) return r;
    /* MLX writes a key of its own */
    const json_t *mlx = json_object_get(config, "quantization");
    if (json_object_get(mlx, "bits") && json_object_get(mlx, "group_size"))
        return refuse(where, "MLX's quantized weights", "quantization", err);
    return 0;
}
