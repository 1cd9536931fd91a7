"""Models that train themselves, with optimizers that Keras knows nothing of; part of other scripts."""

import tensorflow as tf

keras = tf.keras


class Gan(keras.Model):
    """A generator and a discriminator, each with an optimizer of its own; both are made of the same gradient tape."""

    def __init__(self):
        super().__init__()
        self.discriminator = keras.Sequential(
            [keras.layers.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
        )
        self.generator = keras.Sequential(
            [keras.layers.Input((2,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(4)]
        )

    def compile(self, discriminator_optimizer, generator_optimizer, **arguments):
        # Keras makes an optimizer that nobody uses.
        super().compile(**arguments)
        self.discriminator_optimizer, self.generator_optimizer = discriminator_optimizer, generator_optimizer

    def gradients_of(self, real):
        """Give the discriminator's and the generator's gradients, and the losses."""
        with tf.GradientTape(persistent=True) as tape:
            fake = self.generator(real[:, :2], training=True)
            doubt = self.discriminator(fake, training=True)
            judged = tf.reduce_mean((self.discriminator(real, training=True) - 1) ** 2) + tf.reduce_mean(doubt**2)
            fooled = tf.reduce_mean((doubt - 1) ** 2)
        parts = ((judged, self.discriminator), (fooled, self.generator))
        return *(tape.gradient(loss, part.trainable_variables) for loss, part in parts), judged, fooled

    def train_step(self, data):
        real = data[0] if isinstance(data, tuple) else data
        # Both are there before either is applied.
        of_discriminator, of_generator, judged, fooled = self.gradients_of(real)
        self.discriminator_optimizer.apply_gradients(
            zip(of_discriminator, self.discriminator.trainable_variables, strict=True)
        )
        self.generator_optimizer.apply_gradients(zip(of_generator, self.generator.trainable_variables, strict=True))
        return {"judged": judged, "fooled": fooled}


def adapted_layers(words, numbers):
    """Make one of each kind of layer that learns from data before the training, by name, and what it takes."""
    layers = keras.layers
    made = {
        "words": (layers.StringLookup(), "text", words),
        "one hot": (layers.StringLookup(output_mode="one_hot", max_tokens=8, pad_to_max_tokens=True), "text", words),
        "tf-idf": (layers.StringLookup(output_mode="tf_idf", max_tokens=8, pad_to_max_tokens=True), "text", words),
        "whole numbers": (layers.IntegerLookup(), "whole", [len(word) for word in words]),
        "text": (layers.TextVectorization(output_sequence_length=2), "text", words),
        "normal": (layers.Normalization(axis=None), "number", numbers),
        "bins": (layers.Discretization(num_bins=4), "number", numbers),
    }
    for layer, _, data in made.values():
        layer.adapt(tf.constant(data))
    return made


def adapted_model(words, numbers):
    """Make a model that begins with adapted layers."""
    inputs = {
        "text": keras.layers.Input((1,), dtype="string", name="text"),
        "whole": keras.layers.Input((1,), dtype="int64", name="whole"),
        "number": keras.layers.Input((1,), dtype="float32", name="number"),
    }
    outputs = []
    for layer, takes, _ in adapted_layers(words, numbers).values():
        output = layer(inputs[takes])
        outputs.append(keras.layers.Reshape((-1,))(keras.layers.Lambda(lambda each: tf.cast(each, "float32"))(output)))
    joined = keras.layers.Concatenate()(outputs)
    return keras.Model(inputs, [keras.layers.Dense(1)(joined), joined])
