"""Real image-text models of `transformers`, tiny and with random weights, with processors and a tokenizer made here."""

import torch
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3 import Idefics3Config, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tutelage.data.characters import train_bpe

TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }}: {% for part in turn.content %}{% if part.type == 'image' %}<image>\n"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant: {% endif %}"
)
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer():
    made = train_bpe(["user: assistant: Is it a digit or a letter?"] * 3, 300)
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    made.add_special_tokens({"additional_special_tokens": special})
    made.add_tokens(["Yes", "No", "yes", "no"])
    return made


def tiny_image_text_model(kind):
    words = tokenizer()
    text = LlamaConfig(vocab_size=len(words), max_position_embeddings=1024, pad_token_id=0, **SMALL)
    place = words.convert_tokens_to_ids("<image>")
    if kind == "llava":
        pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        processor = LlavaProcessor(
            pictures,
            words,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=TEMPLATE,
        )
        vision = CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=16, **SMALL)
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=place)
    else:
        pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
        processor = Idefics3Processor(pictures, words, image_seq_len=4, chat_template=TEMPLATE)
        vision = {"image_size": 32, "patch_size": 8, **SMALL}
        config = Idefics3Config(
            vision_config=vision, text_config=text, image_token_id=place, scale_factor=2, pad_token_id=0
        )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():  # larger than they are drawn, so that pictures and questions matter
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 8
    return model, processor
